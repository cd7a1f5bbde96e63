"""What a step may change once it is known what is finite."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.passes import Directions
from polytape.engines import engine
from polytape.training.backward import BackwardResult
from polytape.training.recording import PhaseRecording


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


def decide_update(
    recording: PhaseRecording, result: BackwardResult, as_a_whole: bool
) -> UpdateDecision:
    """The decision on what the backward side of a step came to.

    as_a_whole  whether a step is skipped if one of its objectives is left out
    """
    if result.fine is None:
        decision = _by_objective(recording, result, as_a_whole)
    else:  # what skips a step as a whole has one failure group
        decision = _by_group(recording, result, result.fine)
    return _rescaled(recording, decision) if recording.phase.rescales else decision


def _by_objective(
    recording: PhaseRecording, result: BackwardResult, as_a_whole: bool
) -> UpdateDecision:
    """Every gradient was seen by itself."""
    active = result.active
    left_out = recording.of_those_present(~active) if result.left_out is None else result.left_out
    accept = ops.any(active)
    if as_a_whole:
        accept = accept & ~ops.any(left_out)

    def concerns(objectives: Sequence[int]) -> Tensor:
        among = np.isin(np.arange(len(recording.losses)), objectives)
        return accept & ops.any(active & ops.convert_to_tensor(among, "bool"))

    return UpdateDecision(result.directions, active, left_out, accept, accept, concerns)


def _by_group(
    recording: PhaseRecording, result: BackwardResult, fine: Sequence[Tensor]
) -> UpdateDecision:
    """Of each failure group it is known whether all of it is finite."""
    groups, count = recording.failure_groups, len(recording.losses)
    group_of = {t: number for number, group in enumerate(groups) for t in group.objectives}
    present = None if recording.present is None else ops.unstack(recording.present, count)

    def concerns(objectives: Sequence[int]) -> Tensor:
        if not objectives:
            return ops.zeros((), "bool")
        flag = fine[group_of[objectives[0]]]
        if present is None:
            return flag
        return flag & functools.reduce(ops.logical_or, [present[t] for t in objectives])

    accept = functools.reduce(ops.logical_or, [concerns(group.objectives) for group in groups])
    one = len(groups) == 1
    each = fine[0] if one else engine().stack([fine[group_of[t]] for t in recording.objectives])
    if len(groups) == count > 1:  # to each objective its own
        sure = recording.of_those_present(each), recording.of_those_present(~each)
        return UpdateDecision(result.directions, *sure, accept, accept, concerns)
    bad = recording.of_those_present(~recording.finite_losses)
    known = ops.any(bad)
    if not one:
        fellows = np.array(
            [[group_of[t] == group_of[s] for s in recording.objectives] for t in sorted(group_of)]
        )
        known = ops.any(bad[None, :] & ops.convert_to_tensor(fellows, "bool"), axis=1)
    # Where the losses of a group are finite it is not known which of the gradients is not.
    left_out = bad | recording.of_those_present(~(each | known))
    active = recording.active & each
    return UpdateDecision(result.directions, active, left_out, accept, accept, concerns)


def _rescaled(recording: PhaseRecording, decision: UpdateDecision) -> UpdateDecision:
    """Under loss scaling the optimizer is to see an overflow, skip the step and lower the scale."""
    overflow = recording.finite_losses & decision.left_out
    reached = [gradient for gradient in decision.directions if gradient is not None]
    accept = decision.accept & ~ops.any(overflow) & engine().in_range(reached)
    return decision._replace(
        directions=_poisoned_unless(accept, decision.directions),
        left_out=recording.of_those_present(~recording.finite_losses),
        accept=accept,
        act=ops.ones((), "bool"),
    )


def _poisoned_unless(fine: Tensor, directions: Directions) -> Directions:
    """The same directions, with NaN in one of them unless `fine`."""
    poison = ops.where(fine, 0.0, float("nan"))
    first, gradient = next((v, g) for v, g in enumerate(directions) if g is not None)
    spoilt = ops.add(gradient, ops.cast(poison, gradient.dtype))
    return [*directions[:first], spoilt, *directions[first + 1 :]]
