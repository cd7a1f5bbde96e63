"""PyTorch: loops of one's own in several processes, with modules, wrappers and Keras's models."""

import traceback
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from processes import each
from small import arrays, model, tensors
from spread import CLOSE, SIZE, STEPS, apart, batches, flat, part

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.distributed is of PyTorch"
)
Found = dict[str, Any]
CASES: dict[str, Callable[[int, int], Found]] = {}


def case(function: Callable[[int, int], Found]) -> Callable[[int, int], Found]:
    """What one process makes by itself, and several together: weights, and other numbers."""
    CASES[function.__name__] = function
    return function


def net(wrapped: bool = False, seed: int = 0) -> Any:
    import torch

    torch.manual_seed(seed)
    trunk = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh())
    heads = {name: torch.nn.Linear(6, 1) for name in "ab"}

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleDict({"trunk": trunk, **heads})

        def forward(self, x: Any) -> Any:
            code = self.parts["trunk"](x)
            return {"a": self.parts["a"](code), "b": self.parts["b"](code)}

    found = Net()
    return torch.nn.parallel.DistributedDataParallel(found) if wrapped else found


def steps(rank: int, count: int) -> Any:
    """Batches of this process, as tensors."""
    import torch

    x, y = part(batches(), rank, count)
    size = SIZE // count
    for step in range(STEPS):
        some = slice(step * size, (step + 1) * size)
        yield torch.tensor(x[some]), {name: torch.tensor(y[name][some]) for name in "ab"}


def errors(found: Any, target: Any) -> Any:
    import torch

    return {
        "a": torch.nn.functional.mse_loss(found["a"], target["a"]),
        "b": torch.nn.functional.l1_loss(found["b"], target["b"]),
    }


def vector(module: Any) -> Any:
    return flat([p.detach().numpy() for p in module.parameters()])


def looped(rank: int, count: int, combine: Any, wrapped: bool = False, **options: Any) -> Found:
    import torch

    network = net(wrapped and count > 1)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    combiner = combine if isinstance(combine, str) else pt.Combiner(combine, seed=rank)
    begun, seen = vector(network), []
    for x, target in steps(rank, count):
        grads = pt.gradients(lambda x=x, t=target: errors(network(x), t), network, **options)
        update = grads.combine(combiner)
        for parameter, direction in zip(network.parameters(), update, strict=True):
            parameter.grad = direction
        optimizer.step()
        seen += [*(float(loss) for loss in grads.losses.values()), *np.ravel(grads.gramian)]
    state = [] if isinstance(combiner, str) else arrays(combiner.variables)
    whole = flat([np.zeros(0), *state])
    return {"weights": vector(network), "begun": begun, "numbers": seen, "state": whole}


CASES["one method"] = lambda rank, count: looped(rank, count, "upgrad")
CASES["a Combiner"] = lambda rank, count: looped(rank, count, pt.Smoothed(pt.UPGrad()))
CASES["with random numbers"] = lambda rank, count: looped(rank, count, pt.PCGrad())
CASES["wrapped"] = lambda rank, count: looped(rank, count, pt.GradNorm(), wrapped=True)
CASES["scaled"] = lambda rank, count: looped(rank, count, "upgrad", scale=64.0)


@case
def by_keras(rank: int, count: int) -> Found:
    found, optimizer = model(), keras.optimizers.Adam(0.01)
    begun, combiner = flat(arrays(found.trainable_variables)), pt.Combiner("nashmtl")
    for x, target in steps(rank, count):
        grads = pt.gradients(lambda x=x, t=target: errors(found(x), t), found)
        optimizer.apply(combiner(grads), found.trainable_variables)
    return {"weights": flat(arrays(found.trainable_variables)), "begun": begun}


@case
def compiled_step(rank: int, count: int) -> Found:
    """Also where each process begins with weights and a seed of its own."""
    import torch

    found = model()
    begun = flat(arrays(found.trainable_variables))
    if rank:
        for variable in found.trainable_variables:
            variable.assign(variable.value + float(rank))
    network = torch.nn.parallel.DistributedDataParallel(found) if count > 1 else found
    step = pt.compiled_step(
        lambda x, t: errors(found(x, training=True), t),
        keras.optimizers.Adam(0.01),
        pt.Combiner("famo", seed=rank),
        network,
    )
    seen = [float(loss) for x, t in steps(rank, count) for loss in step(x, t).values()]
    return {"weights": flat(arrays(found.trainable_variables)), "begun": begun, "numbers": seen}


@case
def wrapped_in_a_model(rank: int, count: int) -> Found:
    """`DistributedDataParallel` around Keras's models."""
    import torch

    inner = keras.Model(*tensors())
    begun = flat(arrays(model().trainable_variables))
    for variable, value in zip(
        inner.trainable_variables, arrays(model().trainable_variables), strict=True
    ):
        variable.assign(value)
    wrapper = torch.nn.parallel.DistributedDataParallel(inner) if count > 1 else inner
    found = pt.Model.wrap(wrapper)
    found.compile(keras.optimizers.SGD(0.05), {"a": "mse", "b": "mae"}, combine="upgrad")
    x, y = part(batches(), rank, count)
    y = {name: y[name] for name in "ab"}
    found.fit(x, y, batch_size=SIZE // count, shuffle=False, verbose=0)
    return {"weights": flat(arrays(inner.trainable_variables)), "begun": begun}


@case
def networks_that_are_wrapped(rank: int, count: int) -> Found:
    import torch

    def layer(size: int, units: int, seed: int) -> Any:
        init = keras.initializers.GlorotUniform(seed=seed)
        dense = keras.layers.Dense(units, kernel_initializer=init)
        network = keras.Sequential([keras.Input((size,)), dense])
        return torch.nn.parallel.DistributedDataParallel(network) if count > 1 else network

    networks = {"encoder": layer(4, 5, 1), "a": layer(5, 1, 2), "b": layer(5, 1, 3)}
    found = pt.Model(
        networks=networks,
        forward=lambda n, x: {k: n[k](n["encoder"](x)) for k in "ab"},
    )
    found.compile({"encoder": "adam", "*": "sgd"}, {"a": "mse", "b": "mae"}, combine="upgrad")
    begun = flat(arrays(found.trainable_variables))
    x, y = part(batches(), rank, count)
    y = {name: y[name] for name in "ab"}
    found.fit(x, y, batch_size=SIZE // count, shuffle=False, verbose=0)
    return {"weights": flat(arrays(found.trainable_variables)), "begun": begun}


@case
def sparse(rank: int, count: int) -> Found:
    import torch

    torch.manual_seed(0)
    table = torch.nn.Embedding(5, 3, sparse=True)
    words = torch.arange(SIZE).remainder(4).reshape(count, -1)[rank]
    begun = vector(table)
    grads = pt.gradients(lambda: {"a": table(words).pow(2).mean(), "b": table(words).mean()}, table)
    (update,) = grads.combine("upgrad")
    update = update.to_dense() if update.is_sparse else update
    return {"weights": begun - flat([update.numpy()]), "begun": begun}


def in_group(rank: int, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in CASES:
        try:
            found[name] = CASES[name](rank, count)
        except Exception:
            found[name] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Any]]:
    return each(__name__, "in_group", 2)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_as_one(name: str, pair: list[dict[str, Any]]) -> None:
    one, other = (found[name] for found in pair)
    assert isinstance(one, dict), one
    assert isinstance(other, dict), other
    for key in {*one} - {"begun"}:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    alone = CASES[name](0, 1)
    assert apart(one["weights"], alone["weights"], alone["begun"]) < CLOSE
    if "numbers" in alone:
        np.testing.assert_allclose(one["numbers"], alone["numbers"], rtol=2e-5, atol=1e-6)
