"""The evidence in full: one backward pass per objective."""

from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.jacobian import Jacobian, Table, mean_rows
from polytape.differentiation.measured import Measured
from polytape.engines import engine
from polytape.training.backward.recorded import Recorded
from polytape.training.backward.result import BackwardResult


def every(recorded: Recorded) -> BackwardResult:
    """Directions from new evidence, measured where the user asked for it."""
    if recorded.recording.measure != "parameters":
        return _measured(recorded)
    count, first = len(recorded.losses), recorded.total + 1

    def rows(start: int) -> Table:
        return recorded.routed.rows(start, recorded.scale)

    if not recorded.aggregator.halves:
        return settled(recorded, rows(0))
    halves = rows(first), rows(first + count)
    return settled(recorded, mean_rows(*halves), halves)


def settled(
    recorded: Recorded, rows: Table, halves: tuple[Table, Table] | None = None
) -> BackwardResult:
    """Directions from the gradients of all objectives, or of those of a turn and zeros."""
    aggregator = recorded.aggregator
    joint = aggregator.private == "joint"
    connectivity = Connectivity.seen(aggregator.names, recorded.paths, rows, joint)
    connectivity.check()
    aggregator.reach = connectivity.reach
    given = recorded.named_losses, rows, connectivity, recorded.scale
    if recorded.extra is None:
        return _settle(recorded, Jacobian(*given, halves=halves))
    extra = recorded.routed.vjp({recorded.extra: recorded.scale})
    sound = engine().in_range([g for g in extra if g is not None], recorded.added)
    found = _settle(recorded, Jacobian(*given, extra, halves))
    return found._replace(active=found.active & sound)  # it belongs to every objective


def _measured(recorded: Recorded) -> BackwardResult:
    """One backward pass per objective as far as the marked tensors, then one for all."""
    connectivity = recorded.connectivity()
    connectivity.check()
    given = recorded.recording, connectivity, recorded.scale, recorded.extra
    gradients = Measured(recorded.named_losses, *given)
    return _settle(recorded, gradients)


def _settle(recorded: Recorded, gradients: Jacobian) -> BackwardResult:
    given = recorded.wanted, recorded.step, recorded.traces
    directions, _, active, state = recorded.aggregator.aggregate(gradients, *given)
    return BackwardResult(directions, active, state)
