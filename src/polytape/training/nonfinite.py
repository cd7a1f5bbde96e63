"""What a step may change once it is known what is finite."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.passes import Directions
from polytape.engines import engine
from polytape.training.backward import BackwardResult, Recorded


class UpdateDecision(NamedTuple):
    """What a step may change.

    directions  for the optimizer
    active      (T,) bool: objectives that are in them
    left_out    (T,) bool: objectives that are not, because they are not finite
    accept      () bool: whether the method's state moves on
    act         () bool: whether the optimizer is to act, where it is one for all
    concerns    () bool for some objectives: whether the one that updates what they train is to act
    """

    directions: Directions
    active: Tensor
    left_out: Tensor
    accept: Tensor
    act: Tensor
    concerns: Callable[[Sequence[int]], Tensor]


def decide_update(plan: Any, recorded: Recorded, outcome: BackwardResult) -> UpdateDecision:
    """The decision on what the backward side of a step came to."""
    if outcome.fine is None:
        decision = _by_objective(recorded, outcome, plan.on_nonfinite == "skip")
    else:  # what skips a step as a whole has one bond
        decision = _by_bond(recorded, outcome, outcome.fine)
    return _rescaled(recorded, decision) if recorded.rescales else decision


def _by_objective(recorded: Recorded, outcome: BackwardResult, together: bool) -> UpdateDecision:
    """Every gradient was seen by itself."""
    active = outcome.active
    left_out = recorded.of_those_present(~active)
    accept = ops.any(active)
    if together:
        accept = accept & ~ops.any(left_out)

    def concerns(objectives: Sequence[int]) -> Tensor:
        among = np.isin(np.arange(len(recorded.losses)), objectives)
        return accept & ops.any(active & ops.convert_to_tensor(among, "bool"))

    return UpdateDecision(outcome.directions, active, left_out, accept, accept, concerns)


def _by_bond(recorded: Recorded, outcome: BackwardResult, fine: Sequence[Tensor]) -> UpdateDecision:
    """Of each bond it is known whether all of it is finite."""
    bonds, count = recorded.bonds, len(recorded.losses)
    of = {t: b for b, bond in enumerate(bonds) for t in bond.objectives}
    present = None if recorded.present is None else ops.unstack(recorded.present, count)

    def concerns(objectives: Sequence[int]) -> Tensor:
        if not objectives:
            return ops.zeros((), "bool")
        flag = fine[of[objectives[0]]]
        if present is None:
            return flag
        return flag & functools.reduce(ops.logical_or, [present[t] for t in objectives])

    accept = functools.reduce(ops.logical_or, [concerns(bond.objectives) for bond in bonds])
    one = len(bonds) == 1
    each = fine[0] if one else engine().stack([fine[of[t]] for t in recorded.objectives])
    if len(bonds) == count > 1:  # to each objective its own
        sure = recorded.of_those_present(each), recorded.of_those_present(~each)
        return UpdateDecision(outcome.directions, *sure, accept, accept, concerns)
    bad = recorded.of_those_present(~recorded.finite_losses)
    known = ops.any(bad)
    if not one:
        fellows = np.array([[of[t] == of[s] for s in recorded.objectives] for t in sorted(of)])
        known = ops.any(bad[None, :] & ops.convert_to_tensor(fellows, "bool"), axis=1)
    # Where the losses of a bond are finite it is not known which of the gradients is not.
    left_out = bad | recorded.of_those_present(~(each | known))
    active = recorded.active & each
    return UpdateDecision(outcome.directions, active, left_out, accept, accept, concerns)


def _rescaled(recorded: Recorded, decision: UpdateDecision) -> UpdateDecision:
    """Under loss scaling the optimizer is to see an overflow, skip the step and lower the scale."""
    overflow = recorded.finite_losses & decision.left_out
    reached = [gradient for gradient in decision.directions if gradient is not None]
    accept = decision.accept & ~ops.any(overflow) & engine().in_range(reached)
    return decision._replace(
        directions=_poisoned_unless(accept, decision.directions),
        left_out=recorded.of_those_present(~recorded.finite_losses),
        accept=accept,
        act=ops.ones((), "bool"),
    )


def _poisoned_unless(fine: Tensor, directions: Directions) -> Directions:
    """The same directions, with NaN in one of them unless `fine`."""
    poison = ops.where(fine, 0.0, float("nan"))
    first, gradient = next((v, g) for v, g in enumerate(directions) if g is not None)
    spoilt = ops.add(gradient, ops.cast(poison, gradient.dtype))
    return [*directions[:first], spoilt, *directions[first + 1 :]]
