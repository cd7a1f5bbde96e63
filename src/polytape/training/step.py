"""One training step, the same on every backend: record, settle, apply; phase after phase."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine
from polytape.training.backward import Recorded, backward
from polytape.training.nonfinite import UpdateDecision, decide_update
from polytape.training.objectives.masks import carry, masks_of
from polytape.training.objectives.running_means import track
from polytape.training.objectives.values import Given, batch_size, scalars, training_loss
from polytape.training.optimizers.assignment import as_optimizers
from polytape.training.phase_plan import PhasePlan
from polytape.training.statistics import restore


def train_step(model: Any, data: Any) -> dict[str, Tensor]:
    """A step of a `polytape.Model` on one batch: Keras logs out, model and optimizer updated."""
    given = x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    plan = model.plan
    plan.reached = True
    totals = []
    for phase, declared in enumerate(plan.phases):
        for repeat in range(declared.steps):
            outputs, total = _advance(model, given, phase, repeat)
        totals.append(total)
    track(plan.loss_tracker(), sum(totals[1:], start=totals[0]), batch_size(x))
    plan.clock.tick()
    return model.compute_metrics(x, y, outputs, sample_weight=sample_weight)


def _advance(model: Any, given: Given, phase: int, repeat: int) -> tuple[Any, Tensor]:
    """One forward pass, its backward passes and its update; the outputs and the total loss."""
    plan, optimizer = model.plan, model.optimizer

    def forward() -> tuple[list[Tensor], Any]:
        y_pred = plan.forward(given[0])
        total = training_loss(plan, phase, given, y_pred)
        course = plan.course(phase)
        return scalars(plan, course, total), (y_pred, masks_of(y_pred), plan.present(course))

    before = plan.statistics.kept()
    recorder = engine().record
    recording = recorder(forward, lambda: model.trainable_variables, plan.measure, plan.apart)
    restore(before)
    course = plan.courses[phase]
    returned = plan.returned(recording, course) if plan.apart else None
    recording = returned or recording
    if not optimizer.built:  # a model that was not built is built by now
        optimizer.build(plan.places.variables)
    aggregator, (outputs, masks, present) = course.aggregator, recording.outputs
    carry(masks, outputs)
    scale = ops.cast(optimizer.scale_loss(ops.ones(())), "float32")
    count = plan.clock.read()
    if plan.phases[phase].steps > 1:
        count = count * plan.phases[phase].steps + repeat
    settings = present, plan.rescales, plan.on_nonfinite == "isolate"
    recorded = Recorded(recording, course, count, scale, *settings)
    outcome = backward(recorded)
    plan.verify(course, recording, outcome.directions)
    plan.tell()
    decision = decide_update(plan, recorded, outcome)
    aggregator.state.write(outcome.state, decision.accept)
    plan.dropped.update_state(course.spread(decision.left_out, len(plan.names)), present)
    update(optimizer, plan.places.variables, course, decision)
    if aggregator.second_look:
        changing = [*model.non_trainable_variables, *model.metrics_variables]

        def again() -> list[Tensor]:
            found = forward()[0]
            return (returned.of(found) if returned else found)[: len(aggregator.names)]

        after = engine().without_side_effects(again, changing)
        aggregator.look_again(recorded.losses, after, decision.active, decision.accept)
    return outputs, recording.scalars[recorded.total]


def update(
    optimizer: Any, variables: Sequence[Any], course: PhasePlan, decision: UpdateDecision
) -> None:
    """One step of the optimizer, or of those of several that an active objective concerns."""
    optimizers = as_optimizers(optimizer)
    if optimizers is None:
        as_keras = course.plain and course.routes.open
        engine().apply(optimizer, decision.directions, variables, decision.act, as_keras)
        return
    reach: Any = course.aggregator.reach
    concerned = {}
    for name in optimizers:
        own = [v for v, owner in enumerate(optimizers.owners or ()) if owner == name]
        concerned[name] = decision.concerns(np.flatnonzero(reach[:, own].any(axis=1)).tolist())
    with optimizers.taking_part(concerned):  # each behind a guard of its own: no second one
        if optimizers is optimizer:
            optimizers.apply(decision.directions, variables)
        else:
            engine().apply(optimizer, decision.directions, variables, decision.act)
