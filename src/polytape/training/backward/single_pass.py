"""Methods whose weights do not depend on gradients: one backward pass over all objectives."""

from keras import ops

from polytape.contract import State, Tensor
from polytape.differentiation.passes import Directions, term_by_term
from polytape.engines import engine
from polytape.training.backward.recorded import Recorded
from polytape.training.backward.result import BackwardResult, either
from polytape.training.routing.failure_groups import FailureGroup

_Seeds = dict[int, Tensor]  # {scalar: cotangent}


def linear(recorded: Recorded) -> BackwardResult:
    """One backward pass in all; if asked to, one per objective where it is not finite."""
    _check(recorded)
    aggregator, active = recorded.aggregator, recorded.active
    if not recorded.plain:
        seeds, state = _weigh(recorded)
    elif recorded.routed.routes.open:  # Keras's own total, so that it is Keras's gradient
        seeds, state = {recorded.total: recorded.scale}, aggregator.state.read()
    else:
        seeds, state = recorded.cotangents(None), aggregator.state.read()
    directions = recorded.routed.vjp(seeds, last=not recorded.isolate)
    fine = [_finite(recorded, directions, bond) for bond in recorded.bonds]

    def isolated() -> BackwardResult:
        terms = recorded.cotangents(None) if recorded.plain else seeds
        return _one_by_one(recorded, terms, active, directions, state)

    if recorded.isolate:
        return either(fine[0], lambda: BackwardResult(directions, active, state), isolated)
    return BackwardResult(directions, active, state, fine)


def _finite(recorded: Recorded, directions: Directions, bond: FailureGroup) -> Tensor:
    """() bool: whether the losses of a bond, and the directions of what they train, are finite."""
    values = [*recorded.counting(bond.objectives), *recorded.added]
    if recorded.rescales:  # there an overflow is the optimizer's to skip, as in plain Keras
        return engine().finite(values)
    reached = [directions[v] for v in bond.variables if directions[v] is not None]
    return engine().in_range(reached, values, exact=recorded.plain)


def _check(recorded: Recorded) -> None:
    """Refuse an objective without a path; the other ways meet the question at every step."""
    aggregator = recorded.aggregator
    if not aggregator.checked:
        recorded.connectivity().check()
        aggregator.checked = True


def _weigh(recorded: Recorded) -> tuple[_Seeds, State]:
    """The seeds of the backward pass, and the method's next state."""
    aggregator = recorded.aggregator
    if aggregator.method.constant:  # no backward pass waits for the values of the losses
        active, losses = recorded.wanted, ops.zeros((len(recorded.losses),), "float32")
    else:
        active, losses = recorded.active, ops.where(recorded.active, recorded.loss_vector, 0.0)
    given = losses, None, active, recorded.step
    weights, _, state = aggregator.weigh(*given, traces=recorded.traces)
    return recorded.cotangents(weights), state


def _one_by_one(
    recorded: Recorded, seeds: _Seeds, active: Tensor, like: Directions, state: State
) -> BackwardResult:
    """The sum of the terms that are finite. Terms are differentiated in turn, not at once."""
    taken = {t: active[t] for t in recorded.objectives}
    if recorded.extra is not None:
        taken[recorded.extra] = ops.isfinite(recorded.recording.scalars[recorded.extra])
    parts = recorded.routed.parts(seeds)
    taken, directions = term_by_term(recorded.recording, parts, taken, like)
    return BackwardResult(directions, ops.stack([taken[t] for t in recorded.objectives]), state)
