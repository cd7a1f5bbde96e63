"""Methods whose weights do not depend on gradients: one backward pass over all objectives."""

from keras import ops

from polytape.contract import State, Tensor
from polytape.differentiation.passes import Directions, term_by_term
from polytape.engines import engine
from polytape.methods.sum import Sum
from polytape.training.backward.outcome import Outcome, either
from polytape.training.backward.recorded import Recorded

_SUM = Sum()
_Seeds = dict[int, Tensor]  # {scalar: cotangent}


def linear(recorded: Recorded) -> Outcome:
    """One backward pass in all; if asked to, one per objective where it is not finite."""
    _check(recorded)
    settlement, losses, present = recorded.settlement, recorded.loss_vector, recorded.present
    active = recorded.finite_losses() & present
    plain = settlement.method == _SUM  # Keras's own total, so that it is Keras's gradient
    if plain:
        seeds, state = {recorded.total: recorded.scale}, settlement.state.read()
    else:
        seeds, state = _weigh(recorded, active)
    directions = recorded.routed.pull(seeds)
    reached = [gradient for gradient in directions if gradient is not None]
    # Under loss scaling an overflow is the optimizer's to skip, as in plain Keras.
    values = [ops.where(present, losses, 0.0), *recorded.added]
    fine = engine().finite(values if recorded.rescales else [*values, *reached])

    def isolated() -> Outcome:
        terms, kept = _weigh(recorded, active) if plain else (seeds, state)
        return _one_by_one(recorded, terms, active, directions, kept)

    if recorded.isolate:
        return either(fine, lambda: Outcome(directions, active, state), isolated)
    return Outcome(directions, active, state, fine)


def _check(recorded: Recorded) -> None:
    """Refuse an objective without a path; the other ways meet the question at every step."""
    settlement = recorded.settlement
    if not settlement.checked:
        recorded.connectivity().check()
        settlement.checked = True


def _weigh(recorded: Recorded, active: Tensor) -> tuple[_Seeds, State]:
    """The seeds of the backward pass, and the method's next state."""
    settlement, losses = recorded.settlement, recorded.loss_vector
    if settlement.method.constant:  # no backward pass waits for the values of the losses
        losses, active = ops.zeros_like(losses), recorded.present
    given = ops.where(active, losses, 0.0), None, active, recorded.step
    weights, _, state = settlement.weigh(*given, traces=recorded.traces)
    return recorded.cotangents(weights), state


def _one_by_one(
    recorded: Recorded, seeds: _Seeds, active: Tensor, like: Directions, state: State
) -> Outcome:
    """The sum of the terms that are finite. Terms are differentiated in turn, not at once."""
    taken = {t: active[t] for t in recorded.objectives}
    if recorded.extra is not None:
        taken[recorded.extra] = ops.isfinite(recorded.recording.scalars[recorded.extra])
    parts = recorded.routed.parts(seeds)
    taken, directions = term_by_term(recorded.recording, parts, taken, like)
    return Outcome(directions, ops.stack([taken[t] for t in recorded.objectives]), state)
