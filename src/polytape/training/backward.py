"""From a recorded forward pass to update directions: four strategies, and which is the cheapest."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from polytape.contract import State, Tensor
from polytape.contract.types import Anything, Flags
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.measured import Measured
from polytape.differentiation.passes import Directions, at_once, term_by_term
from polytape.differentiation.table import Table
from polytape.engines import engine
from polytape.evidence import Measurement
from polytape.training.recording import PhaseRecording
from polytape.training.routing.failure_groups import FailureGroup


class Weights(NamedTuple):
    """What the gradients are multiplied by.

    shared   (T,) or (B, T) on variables that several objectives reach
    private  (T,) on the others; None: one for each objective that is active
    """

    shared: Tensor
    private: Tensor | None


class BackwardResult(NamedTuple):
    """Update directions by variable, and what must happen besides.

    directions  times the loss scale; None where no objective reaches the variable
    active      (T,) bool: objectives that are in them
    state       of the method, for the next step
    fine        for each failure group, () bool: whether their losses and what they train are
                finite; None if `active` says it
    reach       (T, V) bool, known while tracing: who reaches what on its route; None if it is what
                the recording says
    weights     in the directions, told where a monitor asks
    gradients   of all objectives, where they were needed in any case
    left_out    (T,) bool: objectives of which something is not in them; None: those not active
    """

    directions: Directions
    active: Tensor
    state: State
    fine: Sequence[Tensor] | None = None
    reach: Flags | None = None
    weights: Weights | None = None
    gradients: Jacobian | None = None
    left_out: Tensor | None = None


def backward(recording: PhaseRecording) -> BackwardResult:
    """Evidence, weights and the directions they give, by the cheapest way there is."""
    return _strategy(recording)(recording)


def _strategy(recording: PhaseRecording) -> Callable[[PhaseRecording], BackwardResult]:
    """The cheapest way that gives what the method asks for."""
    aggregator = recording.phase.aggregator
    if recording.phase.examples is not None:
        return _per_example
    if aggregator.single_pass:
        return _single_pass
    if aggregator.round_robin:
        return _round_robin
    if aggregator.period > 1 and not aggregator.blocks.shape:
        return _periodic
    return _per_objective


def sees_every_gradient(recording: PhaseRecording) -> bool:
    """Whether every step has the gradient of each objective by each variable."""
    always = _strategy(recording) is _per_objective
    return always and recording.recording.measure == "parameters"


# ---------------------------------------------------------------------- single pass
# Methods whose weights do not depend on gradients: one backward pass over all objectives.


def _single_pass(recording: PhaseRecording) -> BackwardResult:
    """One backward pass in all; if asked to, one per objective where it is not finite."""
    phase = recording.phase
    if recording.known_reach is None:
        _ = recording.connectivity  # raises for an objective without a path
    seeds, state, weights = _seeds(recording)
    directions = recording.vjp(seeds, last=not phase.isolates)
    fine = [_finite(recording, directions, group) for group in recording.failure_groups]
    told = Weights(weights, weights) if recording.monitored else None
    if not phase.isolates:
        return BackwardResult(directions, recording.active, state, fine, weights=told)

    def isolated() -> BackwardResult:
        terms = recording.cotangents(None) if phase.plain else seeds
        return _one_by_one(recording, terms, directions, state)

    whole = BackwardResult(directions, recording.active, state)
    return _either(fine[0], lambda: whole, isolated)._replace(weights=told)


def _seeds(recording: PhaseRecording) -> tuple[dict[int, Tensor], State, Tensor]:
    """The cotangents of the backward pass, the method's next state, and its (T,) weights."""
    phase, aggregator = recording.phase, recording.phase.aggregator
    if phase.plain:
        ones = np.ones(len(recording.losses), "float32")
        whole = phase.routes.open  # Keras's own total, so that it is Keras's gradient
        seeds = {recording.total: recording.scale} if whole else recording.cotangents(None)
        return seeds, aggregator.state.read(), ones
    if aggregator.method.constant:  # no backward pass waits for the values of the losses
        active, losses = recording.wanted, ops.zeros((len(recording.losses),), "float32")
    else:
        active = recording.active
        losses = ops.where(active, recording.loss_vector, 0.0)
    readings = aggregator.measure(Measurement(recording.step, recording))
    weights, _, state = aggregator.weigh(losses, None, active, recording.step, readings)
    return recording.cotangents(weights), state, weights


def _finite(recording: PhaseRecording, directions: Directions, group: FailureGroup) -> Tensor:
    """() bool: whether the losses of a group, and the directions of what they train, are finite."""
    values = [*recording.counting(group.objectives), *recording.added]
    if recording.phase.rescales:  # there an overflow is the optimizer's to skip, as in plain Keras
        return engine().finite(values)
    reached = [directions[v] for v in group.variables if directions[v] is not None]
    return engine().in_range(reached, values, exact=recording.phase.plain)


def _one_by_one(
    recording: PhaseRecording, seeds: dict[int, Tensor], like: Directions, state: State
) -> BackwardResult:
    """The sum of the terms that are finite. Terms are differentiated in turn, not at once."""
    taken = {t: recording.active[t] for t in recording.objectives}
    if recording.extra is not None:
        taken[recording.extra] = ops.isfinite(recording.recording.scalars[recording.extra])
    parts = recording.split(seeds)
    taken, directions = term_by_term(recording.recording, parts, taken, like)
    active = ops.stack([taken[t] for t in recording.objectives])
    return BackwardResult(directions, active, state)


# ---------------------------------------------------------------------- per objective
# The evidence in full: one backward pass per objective.


def _per_objective(recording: PhaseRecording) -> BackwardResult:
    """Directions from new evidence, measured where the user asked for it."""
    if recording.recording.measure != "parameters":
        return _at_marks(recording)
    aggregator = recording.phase.aggregator
    for kind in aggregator.recording:
        if kind.makes_rows:  # the losses are differentiated part by part
            tables = [recording.rows(group) for group in recording.parts(kind.name)]
            return _of_rows(recording, kind.rows(tables), {kind.name: tables})
    return _of_rows(recording, recording.rows(recording.recording.groups["losses"]))


def _of_rows(
    recording: PhaseRecording, rows: Table, parts: dict[str, list[Table]] | None = None
) -> BackwardResult:
    """Directions from the gradients of all objectives, or of those of a turn and zeros.

    parts  {kind of evidence: what the rows were made of}
    """
    aggregator, scale = recording.phase.aggregator, recording.scale
    joint = aggregator.private == "joint"
    connectivity = Connectivity.seen(aggregator.names, aggregator.paths, rows, joint)
    connectivity.check()
    losses, extra = recording.named_losses, recording.row(recording.extra)
    found = _aggregated(recording, Jacobian(losses, rows, connectivity, scale, extra, parts))
    if extra is not None:  # it belongs to every objective
        sound = engine().in_range([g for g in extra if g is not None], recording.added)
        found = found._replace(active=found.active & sound)
    return found._replace(reach=connectivity.reach)


def _at_marks(recording: PhaseRecording) -> BackwardResult:
    """One backward pass per objective as far as the marked tensors, then one for all."""
    connectivity, scale = recording.connectivity, recording.scale
    extra, losses = recording.extra, recording.named_losses
    gradients = Measured(losses, recording.recording, connectivity, scale, extra)
    return _aggregated(recording, gradients)


def _aggregated(recording: PhaseRecording, gradients: Jacobian) -> BackwardResult:
    found = recording.phase.aggregator.aggregate(
        gradients, recording.wanted, recording.step, recording
    )
    result = BackwardResult(found.directions, found.active, found.state)
    if not recording.monitored:
        return result
    return result._replace(weights=Weights(found.shared, found.private), gradients=gradients)


# ---------------------------------------------------------------------- per example
# Every example an objective: one backward pass to the outputs of the layers, or one with weights.


def _per_example(recording: PhaseRecording) -> BackwardResult:
    """Directions from the losses of single examples, or single time steps."""
    phase, state = recording.phase, recording.phase.aggregator.state.read()
    if phase.examples is None:
        raise RuntimeError("A phase of examples came without a plan for them.")
    found = phase.examples.directions(recording, phase.routes)
    told = Weights(found.weights, found.weights) if recording.monitored else None
    return BackwardResult(
        found.directions,
        found.active,
        state,
        reach=found.reach,
        weights=told,
        left_out=found.left_out,
    )


# ---------------------------------------------------------------------- round robin
# Methods that remember gradients: every objective's in the first step, then one per step.


def _round_robin(recording: PhaseRecording) -> BackwardResult:
    """Directions from what is remembered and one new gradient."""
    reach = recording.connectivity.reach
    first = ops.equal(recording.step, 0)
    return _either(first, lambda: _per_objective(recording), lambda: _in_turn(recording, reach))


def _in_turn(recording: PhaseRecording, reach: Flags) -> BackwardResult:
    """One backward pass, for the objective whose turn it is; zero for the others."""
    index = ops.mod(ops.cast(recording.step, "int32"), len(recording.losses))
    chosen = [ops.equal(index, t) for t in recording.objectives]
    cotangents = [ops.where(turn, recording.scale, 0.0) for turn in chosen]
    found = recording.vjp(dict(enumerate(cotangents)))
    dense = [
        ops.zeros_like(variable) if g is None else ops.cast(engine().dense(g), g.dtype)
        for g, variable in zip(found, recording.phase.variables, strict=True)
    ]
    rows = [
        [
            ops.where(turn, gradient, ops.zeros_like(gradient)) if reached else None
            for gradient, reached in zip(dense, row, strict=True)
        ]
        for turn, row in zip(chosen, reach, strict=True)
    ]
    return _of_rows(recording, rows)


# ---------------------------------------------------------------------- periodic
# Methods that look at the gradients now and then, and keep their weights in between.


def _periodic(recording: PhaseRecording) -> BackwardResult:
    """All gradients when they are due, else the last weights and one backward pass."""
    aggregator, active = recording.phase.aggregator, recording.active
    due = ops.equal(ops.mod(ops.cast(recording.step, "int32"), aggregator.period), 0)
    again = ops.logical_and(ops.logical_not(due), ops.all(active))

    def recall() -> BackwardResult:
        losses, step = recording.loss_vector, recording.step
        readings = aggregator.measure(Measurement(step, recording))
        shared, private, state = aggregator.weigh(losses, None, active, step, readings)
        directions = _weighted(recording, shared, private)
        reached = [gradient for gradient in directions if gradient is not None]
        fine = engine().in_range(reached, recording.added)
        told = None
        if recording.monitored:
            told = Weights(shared, private if aggregator.private == "own" else shared)
        return BackwardResult(directions, active & fine, state, weights=told)

    return _either(again, recall, lambda: _per_objective(recording))


def _weighted(recording: PhaseRecording, shared: Tensor, private: Tensor) -> Directions:
    """Directions for weights known beforehand: private variables are differentiated apart."""
    aggregator = recording.phase.aggregator
    own = aggregator.private == "own"
    apart = set(recording.connectivity.private) if own else set()
    together = set(range(len(aggregator.paths))) - apart
    parts = [
        part
        for weights, among in ((shared, together), (private, apart))
        for part in recording.split(recording.cotangents(weights), among)
    ]
    return at_once(recording.recording, parts, len(aggregator.paths))


# ---------------------------------------------------------------------- the choice


def _either(
    first: Tensor, one: Callable[[], BackwardResult], other: Callable[[], BackwardResult]
) -> BackwardResult:
    """One of two results of the same structure, both fine; only the chosen one is computed."""
    layout: list[Anything] = []

    def flat(result: BackwardResult) -> list[Tensor]:
        layout[:] = [[gradient is not None for gradient in result.directions], result.state]
        reached = [gradient for gradient in result.directions if gradient is not None]
        told = result.weights
        if told is not None and told.private is None:
            told = told._replace(private=ops.cast(result.active, "float32"))
        return [*reached, *(told or ()), result.active, *keras.tree.flatten(result.state)]

    results = list(engine().either(first, lambda: flat(one()), lambda: flat(other())))
    present, state = layout
    directions = [results.pop(0) if there else None for there in present]
    told = Weights(results.pop(0), results.pop(0)) if len(results) > 1 + _count(state) else None
    state = keras.tree.pack_sequence_as(state, results[1:])
    return BackwardResult(directions, results[0], state, weights=told)


def _count(nest: State) -> int:
    return len(keras.tree.flatten(nest))
