"""What was not finite, in words: which objectives, which data, which weights."""

import numpy as np
from keras import ops

from polytape.contract.types import Anything
from polytape.training.compilation import Compilation
from polytape.training.losses.culprits import culprits, spoilt


def raise_if_dropped(compilation: Compilation) -> None:
    """Raise if the user asked for it and an objective was left out."""
    if compilation.settings.on_nonfinite != "raise":
        return
    if named := compilation.plan.dropped.describe():
        raise FloatingPointError(
            f"A loss, gradient or weight is not finite: {named}.{bad_data(compilation)} No "
            f"variable was touched by it. {bad_weights(compilation)}Look for log or division of "
            "zero, an exploding loss, or NaN in the data of that objective."
        )


def bad_data(compilation: Compilation) -> str:
    """What is not finite in the data of the `fit` that runs and in the model, as sentences."""
    plan, objectives = compilation.plan, compilation.settings.objectives
    keys: dict[str, Anything] = {name: name for name in plan.dropped.left_out()}
    if objectives is not None:
        given = [objectives.given[name] for name in keys]
        keys = {one.name: one.target for one in given if not one.of_step}
    places = {name: plan.names.index(name) for name in keys}
    model = compilation.model
    held = [*model.weights, *model.optimizer.variables]
    own = [variable for variable in held if "reweight" not in variable.path]  # `bad_weights`
    return culprits(compilation.data, keys, places) + spoilt(own)


def bad_weights(compilation: Compilation) -> str:
    """A sentence for each objective whose weight was not finite in the last step."""
    plan = compilation.plan
    last = ops.maximum(ops.cast(plan.clock.read(), "int32") - 1, 0)
    pairs = [
        (name, weight)
        for phase in plan.phases
        for name, weight in zip(phase.names, ops.convert_to_numpy(phase.weights(last)), strict=True)
    ]
    return "".join(
        f"The weight of {name!r} is {weight}. " for name, weight in pairs if not np.isfinite(weight)
    )
