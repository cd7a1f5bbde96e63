"""Gradients of many losses are those of one after the other, however many passes they take."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from polytape.engines import engine

pytestmark = pytest.mark.engine
COUNT = 8  # from here on PyTorch goes the common part of the way once
ON_TORCH = keras.backend.backend() == "torch"


class Net(keras.Model):
    """A trunk, and heads that stand on it; what else they stand on is each case's."""

    def __init__(self, case: str) -> None:
        super().__init__()
        activation = "tanh" if case != "convolution" else "elu"
        self.case = case
        self.trunk = [keras.layers.Dense(6, activation=activation) for _ in range(5)]
        self.convolution = keras.layers.Conv1D(3, 3)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")
        self.norm = keras.layers.BatchNormalization()
        self.heads = [keras.layers.Dense(1) for _ in range(COUNT)]

    def call(self, x: Any) -> list[Any]:
        h = x
        for number, layer in enumerate(self.trunk):
            h = layer(h)
            if number == 1:
                early = h
        h = h * self.gain
        if self.case == "convolution":
            h = keras.ops.reshape(self.convolution(h[..., None]), (x.shape[0], -1))
        if self.case == "statistics":
            h = self.norm(h, training=True)
        if self.case == "detached":
            h = keras.ops.stop_gradient(h) * 0.5 + h
        outputs = [head(h) for head in self.heads]
        if self.case == "two tensors":
            outputs[3] = outputs[3] + keras.ops.sum(early, axis=1, keepdims=True)
        if self.case == "tied":
            outputs[2] = outputs[2] + self.trunk[0](x)[:, :1]
        if self.case == "one head uses another":
            outputs[5] = outputs[5] * outputs[4]
        return outputs


CASES = (
    "plain",
    "convolution",
    "statistics",
    "detached",
    "two tensors",
    "tied",
    "one head uses another",
)


@pytest.fixture(scope="module")
def data() -> Any:
    return keras.ops.convert_to_tensor(
        np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    )


def losses_of(net: Net, x: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {str(t): keras.ops.mean((output - t) ** 2) for t, output in enumerate(net(x))}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_single_passes(case: str, data: Any) -> None:
    keras.utils.set_random_seed(1)
    net = Net(case)
    net(data)
    variables = net.trainable_variables
    losses = losses_of(net, data)
    together = pt.gradients(losses, variables)
    for name in together.connectivity.names:
        (alone,) = [pt.gradients(lambda name=name: {name: losses()[name]}, variables)[name]]
        for one, other in zip(together[name], alone, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                one, other = map(keras.ops.convert_to_numpy, (one, other))
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every backward pass whether it was batched."""
    from polytape.engines.torch import pullback

    found: list[bool] = []
    plain = pullback.torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(bool(kwargs.get("is_grads_batched")))
        return plain(*args, **kwargs)

    monkeypatch.setattr(pullback.torch.autograd, "grad", counted)
    return found


@pytest.mark.skipif(not ON_TORCH, reason="other backends compile what is called here")
@pytest.mark.parametrize(
    ("case", "batched"),
    [("plain", 1), ("statistics", 1), ("convolution", 0), ("two tensors", 0), ("tied", 0)],
)
def test_the_common_way_is_gone_once(
    case: str, batched: int, data: Any, passes: list[bool]
) -> None:
    net = Net(case)
    net(data)
    del passes[:]
    pt.gradients(losses_of(net, data), net.trainable_variables)
    assert passes.count(True) == batched
    assert passes.count(False) == COUNT


@pytest.mark.skipif(not ON_TORCH, reason="it is an operation of PyTorch")
def test_what_cannot_be_batched_is_remembered(data: Any, passes: list[bool]) -> None:
    import torch

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return torch.from_numpy(2 * gradient.numpy())  # there is no array behind a batch

    net = Net("plain")
    net(data)

    def losses() -> dict[str, Any]:
        h = data
        for layer in net.trunk:
            h = Doubled.apply(layer(h))
        return {str(t): keras.ops.mean(head(h) ** 2) for t, head in enumerate(net.heads)}

    variables = net.trainable_variables[: 2 * len(net.trunk)]
    first = pt.gradients(losses, variables)
    assert passes.count(True) == 1
    assert passes.count(False) == 2 * COUNT  # once as far as the common tensor
    again = pt.gradients(losses, variables)
    assert passes.count(True) == 1
    assert passes.count(False) == 3 * COUNT
    assert engine().has_value(again.gramian)
    np.testing.assert_array_equal(first.gramian.numpy(), again.gramian.numpy())
