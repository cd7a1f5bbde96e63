"""Gradients that are never formed: their products and sums are those of gradients that are."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from gallery import NETS, N, built
from polytape.contract import Seed
from polytape.differentiation.connectivity import Blocks, Connectivity
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.layer_calls import WHOLE
from polytape.differentiation.layer_recording import record_layers, unformed
from polytape.differentiation.unformed import Unformed
from polytape.differentiation.variables import path_of
from polytape.engines import engine

pytestmark = pytest.mark.engine
T = 3
APART = {"lora", "unknown with layers"}  # of which no layer is a leaf


def losses(model: keras.Model, data: Any) -> list[Any]:
    """() each; the last one is added to them, and reaches the weights past the layers, too."""
    outputs = ops.reshape(ops.cast(model(data), "float32"), (N, -1))
    weights = [ops.sum(ops.square(v)) for v in model.trainable_variables[:1]]
    found = [ops.sum(ops.sin((1.3 + t) * outputs[: t + 1])) for t in range(T)]
    return [*found[:-1], found[-1] + 0.1 * weights[0]]


def leaves(layer: Any, own: Any, args: Any, kwargs: Any) -> bool:
    """Every layer that holds no other, or runs it in a loop, be it small."""
    del args, kwargs
    if isinstance(layer, WHOLE):
        return bool(layer.trainable_variables)
    return bool(own) and len(own) == len(layer.trainable_variables)


def jacobian(recording: Any, variables: list[Any]) -> Jacobian:
    names, paths = [f"l{t}" for t in range(T)], [path_of(v) for v in variables]
    rows = [recording.vjp({t: 1.0}, range(len(variables))) for t in range(T)]
    known = dict(zip(names, recording.scalars, strict=True))
    return Jacobian(known, rows, Connectivity.seen(names, paths, rows))


def measured(recording: Any, variables: list[Any]) -> tuple[Any, Any, Any]:
    """Gramian, that of two combinations, and a weighted sum that leaves the second row out."""
    found = jacobian(recording, variables)
    every, blocks = ops.ones((T,), "bool"), Blocks.by(None, found.connectivity.paths)
    weights = ops.convert_to_tensor(np.array([0.5, np.nan, 2.0], "float32"))
    weights = ops.where(ops.isfinite(weights), weights, 0.0)
    kept = ops.convert_to_tensor(np.array([True, False, True]))
    mixed = ops.convert_to_tensor(np.array([[1, 1, 0], [0, 1, -1], [2, 0, 1]], "float32"))
    seed = Seed(ops.zeros((), "int32"))
    combined = found.combined(weights, None, kept, blocks, pt.UPGrad(), seed)
    there = [ops.reshape(g, (-1,)) for g in combined if g is not None]
    return found.gramian, found.mixed_gramians(blocks, mixed, every), ops.concatenate(there)


@pytest.mark.parametrize("name", NETS)
def test_as_if_they_were_formed(name):
    model, data = built(name)
    variables = model.trainable_variables

    def both(data: Any) -> Any:
        def forward() -> Any:
            return losses(model, data), None

        rows = engine().record(forward, lambda: variables)
        noted = unformed(record_layers(forward, variables, [model], leaves))
        first = noted.vjp({0: 1.0}, range(len(variables)))
        assert any(isinstance(gradient, Unformed) for gradient in first) or name in APART
        return measured(rows, variables), measured(noted, variables)

    # Operation by operation, JAX would compile each of them.
    run = engine().compiled(both) if keras.backend.backend() == "jax" else both
    expected, found = run(data)
    for one, other in zip(expected, found, strict=True):
        one, other = (np.asarray(ops.convert_to_numpy(ops.stop_gradient(x))) for x in (one, other))
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())
