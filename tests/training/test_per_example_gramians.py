"""The Gramian of a batch's examples is that of losses differentiated one by one, layer by layer."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from gallery import NETS, N, built
from polytape.engines import engine


def losses(model: keras.Model, data: Any) -> Any:
    """(N,) of which none is like another."""
    outputs = ops.reshape(ops.cast(model(data), "float32"), (N, -1))
    return ops.sum(ops.sin(1.3 * outputs), axis=1)


def as_array(gradient: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.stop_gradient(gradient))).ravel()


@pytest.mark.parametrize("name", NETS)
def test_gramian_and_sum_are_those_of_single_losses(name):
    model, data = built(name)

    def measured(data: Any) -> Any:
        found = pt.gradients(lambda: {"l": losses(model, data)}, model, per="example")
        single = pt.gradients(lambda: [*ops.unstack(losses(model, data), N)], model)
        dense = [[engine().dense(gradient) for gradient in single[str(i)]] for i in range(N)]
        return found.gramian, [found[f"l[{i}]"] for i in range(N)], dense

    # Operation by operation, JAX would compile each of them.
    run = engine().compiled(measured) if keras.backend.backend() == "jax" else measured
    gramian, found, expected = run(data)
    found, expected = (
        np.stack([np.concatenate([as_array(gradient) for gradient in row]) for row in table])
        for table in (found, expected)
    )
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    products = expected.astype("float64") @ expected.T
    difference = as_array(gramian).reshape(N, N) - products
    assert np.abs(difference).max() <= 1e-5 * np.abs(products).max()


def test_every_layer_with_weights_is_among_them():
    """One that Keras adds is to be tried, too."""
    made = set()
    for name in NETS:
        waiting = [built(name)[0]]
        while waiting:
            layer = waiting.pop()
            made.add(type(layer))
            waiting += [each for each in layer._layers if isinstance(each, layers.Layer)]
    tried = {kind.__name__ for kind in made}
    others = {  # of the same code as one that is tried, or without weights that are trained
        "ConvLSTM2D", "ConvLSTM3D", "LSTM", "LSTMCell", "GRUCell", "SimpleRNNCell", "RNN",
        "StackedRNNCells", "Layer", "Wrapper", "InputLayer", "Normalization", "TFSMLayer",
        "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "Convolution1D", "STFTSpectrogram",
    }  # fmt: skip
    weighted = [
        name
        for name, kind in vars(layers).items()
        if isinstance(kind, type)
        and issubclass(kind, layers.Layer)
        and kind.build is not layers.Layer.build
        and kind.__name__ not in tried | others
    ]
    without = {name for name in weighted if _has_no_weights(getattr(layers, name))}
    assert {*weighted} - without == set()


def _has_no_weights(kind: type) -> bool:
    import inspect

    return "add_weight" not in inspect.getsource(inspect.getmodule(kind))
