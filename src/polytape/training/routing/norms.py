"""How long the gradients of objectives are on one batch, on their routes and off them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine
from polytape.training.objectives.values import Given, training_loss


def gradient_norms(model: Any, given: Given) -> dict[str, np.ndarray]:
    """{objective: (V,) float64}: norm of its loss's gradient by each variable, 0 without a path.

    given  inputs, targets and sample weights of one batch, arrays or tensors

    One forward pass per phase in training mode, all objectives taken as they are without their
    weights. Statistics, seeds and metrics have their values back afterwards.
    """
    plan = model.plan
    given = keras.tree.map_structure(_tensor, given)
    changing = [*model.non_trainable_variables, *model.metrics_variables]
    before = [(variable, ops.copy(variable.value)) for variable in changing]
    try:
        norms: dict[str, np.ndarray] = {}
        for phase, declared in enumerate(plan.phases):
            norms.update(_of_phase(model, phase, declared.objectives, given))
        return norms
    finally:
        for variable, value in before:
            variable.assign(value)


def _of_phase(model: Any, phase: int, names: Sequence[str], given: Given) -> dict[str, np.ndarray]:
    plan, variables = model.plan, model.trainable_variables

    def forward() -> tuple[list[Tensor], Any]:
        y_pred = plan.forward(given[0])
        training_loss(plan, phase, given, y_pred)
        return plan.source.values(names), None

    recording = engine().record(forward, lambda: variables)
    found = {}
    for t, name in enumerate(names):
        gradients = recording.vjp({t: ops.ones((), "float32")}, range(len(variables)))
        found[name] = np.array([0.0 if g is None else _norm(g) for g in gradients])
    return found


def _norm(gradient: Tensor) -> float:
    entries = ops.convert_to_numpy(engine().dense(gradient)).astype("float64")
    return float(np.linalg.norm(entries))


def _tensor(value: Any) -> Any:
    return value if value is None else ops.convert_to_tensor(value)
