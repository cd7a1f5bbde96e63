"""One training step: record, losses, evidence, weights, guard, apply; phase after phase."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Flags, Nest
from polytape.engines import engine
from polytape.training.backward import backward
from polytape.training.compilation import Compilation
from polytape.training.losses.evaluation import Batch
from polytape.training.losses.masks import carry
from polytape.training.losses.objectives import batch_size
from polytape.training.losses.running_means import track
from polytape.training.nonfinite import UpdateDecision, decide_update
from polytape.training.observation import Observation
from polytape.training.optimizers.assignment import as_optimizers
from polytape.training.recording import PhaseRecording, losses_again, record_phase
from polytape.training.statistics import restore
from polytape.training.together import join, several


def train_step(model: keras.Model, data: Nest) -> dict[str, Tensor]:
    """A step of a `polytape.Model` on one batch: Keras logs out, model and optimizer updated."""
    compilation: Compilation = model.compilation
    compilation.reached = True
    if several() and not compilation.joined:
        join(compilation)
        compilation.joined = True
    batch = Batch(*keras.utils.unpack_x_y_sample_weight(data)).in_tensors()
    totals = []
    for number, declared in enumerate(compilation.settings.phases):
        for repeat in range(declared.steps):
            outputs, total = _run_phase(model, compilation, batch, number, repeat)
        totals.append(total)
    track(model.running_loss, sum(totals[1:], start=totals[0]), batch_size(batch.inputs))
    compilation.plan.clock.tick()
    if compilation.monitor is not None:
        compilation.monitor.tick()
    return model.compute_metrics(*batch[:2], outputs, sample_weight=batch.sample_weight)


def _run_phase(
    model: keras.Model, compilation: Compilation, batch: Batch, number: int, repeat: int
) -> tuple[Anything, Tensor]:
    """One forward pass, its backward passes and its update; the outputs and the total loss."""
    optimizer = model.optimizer
    # Record: the forward pass, and the losses it comes to.
    before = compilation.statistics.kept(final=bool(compilation.reaches))
    recorded = record_phase(compilation, number, batch)
    restore(before)
    plan, phase = compilation.plan, compilation.plan.phases[number]
    compilation.check_variables()
    if not optimizer.built:  # a model that was not built is built by now
        optimizer.build(plan.index.variables)
    outputs, masks, present, counted = recorded.outputs
    carry(masks, outputs)
    scale = ops.cast(optimizer.scale_loss(ops.ones(())), "float32")
    count = plan.clock.read()
    if phase.steps > 1:
        count = count * phase.steps + repeat
    known = compilation.known_reach(phase)
    monitor = compilation.monitor if repeat == 0 else None
    watched = monitor is not None
    whole = compilation.examples_of_a_batch
    recording = PhaseRecording(
        recorded, phase, count, scale, present, known, watched, counted, whole
    )
    seen = None if monitor is None else Observation(monitor, number, recording)
    if seen is not None:
        seen.measure()
    # Evidence, and weights: the directions of all variables.
    result = backward(recording)
    if known is None:
        routed = compilation.settings.objectives is not None
        compilation.verify(phase, recording.reach if routed else recording.trained(result.reach))
    compilation.tell()
    # Guard: what of it is finite.
    decision = decide_update(recording, result, compilation.settings.on_nonfinite == "skip")
    if seen is not None:
        seen.write(result, decision)
    # Apply.
    phase.aggregator.state.write(result.state, decision.accept)
    names = len(plan.names)
    left_out, wanted = phase.spread(decision.left_out, names), phase.spread(recording.wanted, names)
    plan.dropped.update_state(left_out, wanted, present)
    apply_update(optimizer, plan.index.variables, recording, decision, result.reach)
    if phase.aggregator.looks_after_update:
        changing = [*model.non_trainable_variables, *model.metrics_variables]
        after = engine().without_side_effects(
            lambda: losses_again(compilation, number, batch, recorded), changing
        )
        look_after_update(recording, decision, after)
    return outputs, recording.total_loss


def apply_update(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    recording: PhaseRecording,
    decision: UpdateDecision,
    reach: Flags | None,
) -> None:
    """One step of the optimizer, or of those of several that an active objective concerns.

    reach  (T, V) bool: which objective trains which variable, if the backward side has told
    """
    optimizers, phase = as_optimizers(optimizer), recording.phase
    if optimizers is None:
        as_keras = phase.plain and phase.routes.open
        engine().apply(optimizer, decision.directions, variables, decision.act, as_keras)
        return
    concerned, trained = {}, recording.trained(reach)
    for name in optimizers:
        own = [v for v, owner in enumerate(optimizers.owners or ()) if owner == name]
        concerned[name] = decision.concerns(np.flatnonzero(trained[:, own].any(axis=1)).tolist())
    with optimizers.taking_part(concerned):  # each behind a guard of its own: no second one
        if optimizers is optimizer:
            optimizers.apply(decision.directions, variables)
        else:
            engine().apply(optimizer, decision.directions, variables, decision.act)


def look_after_update(
    recording: PhaseRecording, decision: UpdateDecision, after: Sequence[Tensor]
) -> None:
    """Show the method what its update did to the losses of the same batch."""
    aggregator = recording.phase.aggregator
    aggregator.look_after_update(recording.losses, after, decision.active, decision.accept)
