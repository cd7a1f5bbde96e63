"""How long the gradients of objectives are on one batch, on their routes and off them."""

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Numbers
from polytape.engines import engine
from polytape.training.compilation import Compilation
from polytape.training.losses.evaluation import Batch
from polytape.training.recording import unweighted_losses


def gradient_norms(compilation: Compilation, batch: Batch) -> dict[str, Numbers]:
    """{objective: (V,) float64}: norm of its loss's gradient by each variable, 0 without a path.

    batch  arrays or tensors

    One forward pass per phase in training mode, all objectives taken as they are without their
    weights. Statistics, seeds and metrics have their values back afterwards.
    """
    model = compilation.model
    batch = Batch(*keras.tree.map_structure(_tensor, tuple(batch)))
    changing = [*model.non_trainable_variables, *model.metrics_variables]
    before = [(variable, ops.copy(variable.value)) for variable in changing]
    try:
        norms: dict[str, Numbers] = {}
        for number in range(len(compilation.settings.phases)):
            norms.update(_of_phase(compilation, number, batch))
        return norms
    finally:
        for variable, value in before:
            variable.assign(value)


def _of_phase(compilation: Compilation, number: int, batch: Batch) -> dict[str, Numbers]:
    variables = compilation.model.trainable_variables
    with engine().alone():  # any process may ask
        recording = engine().record(
            lambda: ({"losses": unweighted_losses(compilation, number, batch)}, None),
            lambda: variables,
        )
    found = {}
    for t, name in enumerate(compilation.plan.phases[number].names):
        gradients = recording.vjp({t: ops.ones((), "float32")}, range(len(variables)))
        found[name] = np.array([0.0 if g is None else _norm(g) for g in gradients])
    return found


def _norm(gradient: Tensor) -> float:
    entries = ops.convert_to_numpy(engine().dense(gradient)).astype("float64")
    return float(np.linalg.norm(entries))


def _tensor(value: Anything) -> Anything:
    return value if value is None else ops.convert_to_tensor(value)
