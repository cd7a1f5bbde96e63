"""One training step, the same on every backend: record, settle, apply."""

from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine
from polytape.training.backward import Pass


def train_step(model: Any, data: Any) -> dict[str, Tensor]:
    """A step of a `polytape.Model` on one batch: Keras logs out, model and optimizer updated."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    plan, optimizer = model.plan, model.optimizer

    def forward() -> tuple[list[Tensor], Any]:
        y_pred = plan.forward(x)
        total = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        return [*plan.losses(), total, *plan.halves()], y_pred

    kept = plan.statistics()
    recording = engine().record(forward, lambda: model.trainable_variables, plan.measure)
    plan.restore(kept)
    variables = model.trainable_variables  # a model that was not built is built by now
    if not optimizer.built:
        optimizer.build(variables)
    batch = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
    scale = ops.cast(optimizer.scale_loss(ops.ones(())), "float32")
    settlement = plan.settlement
    count = ops.add(optimizer.iterations, 0)  # a variable, or a tensor under accumulation
    isolate = plan.on_nonfinite == "isolate"
    step = Pass(recording, settlement, variables, count, scale, plan.rescales, isolate)
    plan.loss_tracker().update_state(recording.scalars[step.total], ops.shape(batch)[0])
    directions, active, state = step.run()
    accept, left_out = plan.accepts(active) & step.fine, ~active
    if plan.rescales:
        # A gradient that overflows where its loss does not is the loss scale's doing: hand the
        # overflow on, and the optimizer skips the step and lowers its scale.
        overflow = step.finite_losses() & left_out
        left_out = ~step.finite_losses()
        reached = [gradient for gradient in directions if gradient is not None]
        accept = accept & ~ops.any(overflow) & engine().finite(reached)
        directions = _poisoned_unless(accept, directions)
    settlement.state.write(state, accept)
    plan.dropped.update_state(left_out)
    always = ops.ones((), dtype="bool")
    engine().apply(optimizer, directions, variables, always if plan.rescales else accept)
    if settlement.second_look:
        changing = [*model.non_trainable_variables, *model.metrics_variables]
        after = engine().aside(lambda: forward()[0][: len(settlement.names)], changing)
        settlement.look_again(step.losses, after, active, accept)
    return model.compute_metrics(x, y, recording.outputs, sample_weight)


def _poisoned_unless(fine: Tensor, directions: list[Tensor | None]) -> list[Tensor | None]:
    """The same directions, with NaN in one of them unless `fine`."""
    poison = ops.where(fine, 0.0, float("nan"))
    first, gradient = next((v, g) for v, g in enumerate(directions) if g is not None)
    spoilt = ops.add(gradient, ops.cast(poison, gradient.dtype))
    return [*directions[:first], spoilt, *directions[first + 1 :]]
