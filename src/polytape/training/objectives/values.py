"""What a forward pass comes to: the total loss, and the scalars that a step differentiates."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from polytape.contract import Method, Tensor
from polytape.differentiation.losses import check_scalar
from polytape.engines import stand_in
from polytape.training.objectives.objective import Step
from polytape.training.objectives.samples import roots
from polytape.training.phase_plan import PhasePlan

Given = tuple[Any, Any, Any]  # inputs, targets, sample weights


def training_loss(plan: Any, phase: int, given: Given, y_pred: Any) -> Tensor:
    """The loss of a phase in a training step; its losses are noted."""
    x, y, sample_weight = given
    names = plan.phases[phase].objectives
    if plan.overrides is not None:
        with plan.source.gathering(names):
            total = plan.model.compute_loss(x, y, y_pred, sample_weight, **plan.loss_mode)
        plan.complete(y_pred)
        check_scalar(f"{plan.overrides}.compute_loss", total)
        return total
    if plan.objectives is None:
        return plan.model.compute_loss(x, y, y_pred, sample_weight, training=True)
    return loss_of_objectives(plan, names, given, y_pred, True)


def loss_of_objectives(
    plan: Any, names: Sequence[str], given: Given, y_pred: Any, training: bool
) -> Tensor:
    """The weighted sum of some objectives that are active, and of added losses."""
    plan.complete(y_pred)
    x, y, sample_weight = given
    count = plan.clock.read()
    step = Step(x, y, y_pred, plan.places.networks, sample_weight, training, count)
    plan.objectives.evaluate(step, names)
    plan.objectives.note(batch_size(x), training)
    weights = {
        name: weight
        for course in plan.courses
        if set(course.names) & set(names)
        for name, weight in zip(course.names, ops.unstack(course.weights(count)), strict=True)
    }
    plan.objectives.weigh({name: weights[name] for name in names})
    terms = [*map(stand_in, plan.objectives.weighted(names)), *added_losses(plan.model)]
    return functools.reduce(ops.add, terms)


def scalars(plan: Any, course: PhasePlan, total: Tensor) -> list[Tensor]:
    """What a step differentiates: the losses just noted and what else the method needs.

    They are weighted where nothing but their sum is wanted; other methods weigh them themselves.
    Where a total is to be taken apart (`plan.apart`), they are what `Returned` asks for.

    ValueError if it needs halves or samples, and the objective is not a loss of its own.
    """
    aggregator, names = course.aggregator, course.names
    if plan.overrides is not None:
        return _of_override(plan, course, total)
    if plan.source.empty:  # nothing but add_loss: that is the objective
        if aggregator.halves or aggregator.samples:
            raise ValueError(
                "This method compares gradients of halves or of single samples of the batch, which "
                "add_loss() does not tell apart. Give the objectives to compile(loss=...)."
            )
        return [total, total]
    values = plan.source.values
    losses = plan.objectives.weighted(names) if plan.objectives and course.plain else values(names)
    halves = [*values(names, 1), *values(names, 2)] if aggregator.halves else []
    residuals = [roots(found) for found in values(names, -1)] if aggregator.samples else []
    return [*losses, *added_losses(plan.model), total, *halves, *residuals]


def _of_override(plan: Any, course: PhasePlan, total: Tensor) -> list[Tensor]:
    """The scalars of a total that a user's `compute_loss` returned."""
    names, source = course.names, plan.source
    if source.empty:  # it is all there is
        return [total, total]
    if not source.evaluated:
        if plan.objectives is not None or plan.apart:
            raise ValueError(never_evaluated(plan.overrides, plan.method))
        return [*(total for _ in names), total, total]  # each stands or falls with it
    values = source.values
    if not plan.apart:  # nothing but the total is differentiated, which is all of the rest, too
        losses = source.weighted(names) if plan.objectives else values(names)
        return [*losses, total, total]
    if plan.objectives is not None:
        losses = source.weighted(names) if course.plain else values(names)
        halves = [*values(names, 1), *values(names, 2)] if course.aggregator.halves else []
        return [*losses, *halves, total]
    parts = (0, 1, 2) if course.aggregator.halves else (0,)
    return [*(value for part in parts for value in source.gathered(names, part)), total]


def never_evaluated(owner: str, method: Method) -> str:
    """What is wrong with a total of which no loss is known."""
    return (
        f"{owner} overrides compute_loss, and its total is one number: {type(method).__name__} "
        'finds no losses in it to combine, and would do what "sum" does. Give the losses to '
        "compile(loss=...) and add to what super().compute_loss(x, y, y_pred, sample_weight, "
        "training) returns; or write each as an objective, compile(objectives=[pt.Objective("
        '"name", function_of_the_step)]); or use combine="sum".'
    )


def added_losses(model: Any) -> list[Tensor]:
    """The sum of the model's added losses, if there are any."""
    found = [ops.sum(ops.cast(loss, keras.config.floatx())) for loss in model.losses]
    return [ops.sum(ops.stack(found))] if found else []


def batch_size(x: Any) -> Tensor:
    """The number of samples in any nest of inputs, () int."""
    return ops.shape(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None))[0]
