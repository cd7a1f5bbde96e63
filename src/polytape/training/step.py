"""One training step, the same on every backend: record, settle, apply; phase after phase."""

from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine
from polytape.training.backward import Outcome, Recorded, backward
from polytape.training.course import Course
from polytape.training.objectives.values import Given, batch_size, scalars, training_loss
from polytape.training.optimizers.division import several
from polytape.training.statistics import kept_statistics, restore


def train_step(model: Any, data: Any) -> dict[str, Tensor]:
    """A step of a `polytape.Model` on one batch: Keras logs out, model and optimizer updated."""
    given = x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    plan = model.plan
    totals = []
    for phase, declared in enumerate(plan.phases):
        for repeat in range(declared.steps):
            outputs, total = _advance(model, given, phase, repeat)
        totals.append(total)
    plan.loss_tracker().update_state(sum(totals[1:], start=totals[0]), batch_size(x))
    plan.clock.tick()
    return model.compute_metrics(x, y, outputs, sample_weight)


def _advance(model: Any, given: Given, phase: int, repeat: int) -> tuple[Any, Tensor]:
    """One forward pass, its backward passes and its update; the outputs and the total loss."""
    plan, optimizer = model.plan, model.optimizer

    def forward() -> tuple[list[Tensor], Any]:
        y_pred = plan.forward(given[0])
        total = training_loss(plan, phase, given, y_pred)
        course = plan.course(phase)
        return scalars(plan, course, total), (y_pred, plan.present(course))

    kept = kept_statistics(model, plan.own_variables)
    recording = engine().record(forward, lambda: model.trainable_variables, plan.measure)
    restore(kept)
    variables = model.trainable_variables  # a model that was not built is built by now
    if not optimizer.built:
        optimizer.build(variables)
    course = plan.course(phase)
    settlement, (outputs, present) = course.settlement, recording.outputs
    scale = ops.cast(optimizer.scale_loss(ops.ones(())), "float32")
    count = plan.clock.read() * plan.phases[phase].steps + repeat
    settings = course.routes, present, plan.rescales, plan.on_nonfinite == "isolate"
    recorded = Recorded(recording, settlement, variables, count, scale, *settings)
    outcome = backward(recorded)
    plan.verify(course, recording, outcome.directions)
    plan.tell()
    directions, accept, left_out = _judged(plan, recorded, outcome)
    active = outcome.active
    settlement.state.write(outcome.state, accept)
    plan.dropped.update_state(course.spread(left_out, len(plan.names)), present)
    _apply(model, course, directions, active, ops.logical_or(accept, plan.rescales))
    if settlement.second_look:
        changing = [*model.non_trainable_variables, *model.metrics_variables]
        after = engine().aside(lambda: forward()[0][: len(settlement.names)], changing)
        settlement.look_again(recorded.losses, after, active, accept)
    return outputs, recording.scalars[recorded.total]


def _judged(
    plan: Any, recorded: Recorded, outcome: Outcome
) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """Directions for the optimizer, () bool whether it is to apply them, (T,) bool: left out."""
    directions, active, _, fine = outcome
    present = recorded.present
    accept, left_out = plan.accepts(active, present), present & ~active
    if fine is not None:
        accept = accept & fine
        # Where all losses are finite it is not known which of the gradients is not.
        left_out = left_out | (present & ~(fine | ops.any(left_out)))
    if plan.rescales:
        # A gradient that overflows where its loss does not is the loss scale's doing: hand the
        # overflow on, and the optimizer skips the step and lowers its scale.
        overflow = recorded.finite_losses() & left_out
        left_out = present & ~recorded.finite_losses()
        reached = [gradient for gradient in directions if gradient is not None]
        accept = accept & ~ops.any(overflow) & engine().finite(reached)
        directions = _poisoned_unless(accept, directions)
    return directions, accept, left_out


def _apply(
    model: Any, course: Course, directions: list[Tensor | None], active: Tensor, accept: Tensor
) -> None:
    """One step of the optimizer, or of those of several that an active objective concerns."""
    optimizers = several(model.optimizer)
    variables = model.trainable_variables
    if optimizers is None:
        engine().apply(model.optimizer, directions, variables, accept)
        return
    reach: Any = course.settlement.reach
    concerned = {}
    for name in optimizers:
        own = [v for v, owner in enumerate(optimizers.owners or ()) if owner == name]
        reaching = reach[:, own].any(axis=1)
        concerned[name] = accept & ops.any(active & ops.convert_to_tensor(reaching))
    with optimizers.taking_part(concerned):  # each behind a guard of its own: no second one
        if optimizers is model.optimizer:
            optimizers.apply(directions, variables)
        else:
            engine().apply(model.optimizer, directions, variables, accept)


def _poisoned_unless(fine: Tensor, directions: list[Tensor | None]) -> list[Tensor | None]:
    """The same directions, with NaN in one of them unless `fine`."""
    poison = ops.where(fine, 0.0, float("nan"))
    first, gradient = next((v, g) for v, g in enumerate(directions) if g is not None)
    spoilt = ops.add(gradient, ops.cast(poison, gradient.dtype))
    return [*directions[:first], spoilt, *directions[first + 1 :]]
