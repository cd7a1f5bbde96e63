"""`pt.weigh` and Combiners that are called again and again: nothing is compiled anew."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.catalogue import all_methods
from polytape.contract import Evidence, Seed, evaluate
from polytape.contract import method as contract_method

pytestmark = pytest.mark.engine
BACKEND = keras.backend.backend()
GRAMIAN_METHODS = sorted(name for name, cls in all_methods().items() if cls.needs == "gramian")
PLAIN = [name for name in GRAMIAN_METHODS if not all_methods()[name].evidence]


def gramian(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 2 * count))
    return np.float32(rows @ rows.T)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, cls: type[pt.Method]) -> Iterator[list[int]]:
    """How often the function of a method is run by Python: once for a trace, if it is compiled."""
    runs = [0]
    usual = cls.weigh

    def weigh(self: Any, *args: Any) -> Any:
        runs[0] += 1
        return usual(self, *args)

    monkeypatch.setattr(cls, "weigh", weigh)
    yield runs
    monkeypatch.undo()


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What JAX compiles meanwhile."""
    import jax

    found: list[str] = []

    def listen(event: str, seconds: float, **more: Any) -> None:
        del seconds
        if event.endswith("backend_compile_duration"):
            found.append(str(more))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing")
def test_one_trace_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    method = pt.CAGrad(c=0.123)  # of no other test
    with counted(monkeypatch, pt.CAGrad) as runs:
        for repeat in range(3):
            for count in (2, 3):
                pt.weigh(method, gramian(count, repeat), seed=repeat, step=repeat)
                pt.weigh(pt.CAGrad(c=0.123), gramian(count, repeat), np.ones(count))
        assert runs[0] == 2
        pt.weigh(method, np.stack([gramian(3), gramian(3, 1)]))
        assert runs[0] == 3
        pt.weigh(pt.CAGrad(c=0.124), gramian(2))
        assert runs[0] == 4


@pytest.mark.skipif(BACKEND != "jax", reason="counts what JAX compiles")
@pytest.mark.parametrize("method", [pt.UPGrad(), pt.PCGrad(), pt.Smoothed(pt.Normalize())])
def test_jax_compiles_nothing_when_asked_again(method: pt.Method) -> None:
    state = None
    for repeat in range(2):
        _, state = pt.weigh(method, gramian(4, repeat), state=state, step=repeat)
    with compilations() as found:
        for repeat in range(3):
            _, state = pt.weigh(method, gramian(4, repeat), state=state, step=7 + repeat)
    assert found == []


@pytest.mark.skipif(BACKEND != "jax", reason="counts what JAX compiles")
@pytest.mark.parametrize("name", ["upgrad", "mgda", "pcgrad", "nashmtl"])
def test_jax_compiles_nothing_when_a_combiner_is_called_again(name: str) -> None:
    wide = keras.Variable(np.random.default_rng(0).normal(size=(300, 70)).astype("float32"))
    own = keras.Variable(np.ones(3, "float32"))
    combiner = pt.Combiner(name)

    def losses() -> dict[str, Any]:
        return {
            "a": ops.mean(ops.square(wide)) + ops.sum(own),
            "b": ops.mean(ops.square(wide - 1.0)),
            "c": -ops.mean(wide[0]),
        }

    for _ in range(2):
        combiner(pt.gradients(losses, [wide, own]))
    grads = pt.gradients(losses, [wide, own])
    with compilations() as found:
        combiner(grads)
        combiner(grads)
    assert found == []


@pytest.mark.skipif(BACKEND != "torch", reason="others compile what they are given")
@pytest.mark.parametrize("name", [*PLAIN, "UPGrad", "DualProj", "MGDA", "NashMTL", "IMTLG"])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_arrays_answer_as_tensors_do(name: str, count: int) -> None:
    """On PyTorch T x T numbers are worked out in NumPy where they are on the CPU."""
    cls = all_methods()[next(key for key in all_methods() if key.lower() == name.lower())]
    if cls.needs != "gramian" or (count == 1 and cls.__name__ == "PCD"):
        pytest.skip("it sees more than a Gramian")
    method, names = cls(), tuple(map(str, range(count)))
    products = ops.convert_to_tensor(gramian(count, count))
    seed = Seed(ops.convert_to_tensor(np.zeros(2, "int64")))
    active = ops.ones((count,), "bool")
    step = ops.zeros((), "int32")
    evidence = Evidence(ops.ones((count,)), products, active, names, step, seed)
    start = keras.tree.map_structure(ops.convert_to_tensor, method.init(names))
    right, _ = evaluate(method, evidence, start)
    found, _ = pt.weigh(method, products)
    right, found = (ops.convert_to_numpy(value) for value in (right, found))
    assert found.dtype == np.float32
    apart = right - found
    length = np.sqrt(np.diag(gramian(count, count))) @ np.abs(right)
    assert apart @ gramian(count, count) @ apart <= (1e-4 * length) ** 2


@dataclass(frozen=True)
class OfKeras(contract_method.Method):
    """A method of somebody else's, in `keras.ops`, which knows nothing of arrays."""

    needs: ClassVar[Any] = "gramian"
    native_scale: ClassVar[str | None] = "sum"
    scale: Any = "sum"

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Any:
        return {"count": np.zeros((*blocks, len(names)), "float32")}

    def weigh(self, evidence: Evidence, state: Any) -> tuple[Any, Any]:
        products = evidence.gramian
        assert ops.is_tensor(products)
        size = ops.sqrt(ops.relu(ops.diagonal(products, axis1=-2, axis2=-1)))
        return 1.0 / (1.0 + size) + state["count"], {"count": state["count"] + 1.0}


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: pt.Smoothed(m), lambda m: pt.Every(m, 2)])
def test_methods_of_others_see_tensors(wrap: Callable[[Any], pt.Method]) -> None:
    method, state = wrap(OfKeras()), None
    for _ in range(3):
        weights, state = pt.weigh(method, [[4.0, 0.0], [0.0, 1.0]], state=state)
    assert ops.is_tensor(weights)
    w = keras.Variable([1.0, 2.0])
    combiner = pt.Combiner(method)
    (update,) = combiner(pt.gradients(lambda: {"a": w[0] ** 2, "b": w[0] * w[1]}, [w]))
    assert np.isfinite(ops.convert_to_numpy(update)).all()


def test_nothing_that_comes_back_is_the_callers_own_memory() -> None:
    method = pt.Smoothed(pt.Normalize())
    given = ops.convert_to_tensor(gramian(3))
    weights, state = pt.weigh(method, given)
    before = [np.array(ops.convert_to_numpy(leaf)) for leaf in keras.tree.flatten(state)]
    again, later = pt.weigh(method, given, state=state)
    if BACKEND == "torch":
        again.zero_()
        for leaf in keras.tree.flatten(later):
            leaf.zero_()
        weights.zero_()
    for old, leaf in zip(before, keras.tree.flatten(state), strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(leaf))
    np.testing.assert_array_equal(ops.convert_to_numpy(given), gramian(3))


def test_weights_can_be_differentiated() -> None:
    """By whoever does: a weight of the Gramian is a function like others."""

    def first(products: Any) -> Any:
        return pt.weigh(pt.MGDA(scale="mean"), products)[0][0]

    at = np.array([[1.0, 0.0], [0.0, 4.0]], "float32")
    if BACKEND == "torch":
        import torch

        products = torch.tensor(at, requires_grad=True)
        first(products).backward()
        found = products.grad
    elif BACKEND == "jax":
        import jax

        found = jax.grad(first)(at)
    else:
        import tensorflow as tf

        products = tf.constant(at)
        with tf.GradientTape() as tape:
            tape.watch(products)
            value = first(products)
        found = tape.gradient(value, products)
    # w_1 = G_22 / (G_11 + G_22) without conflict.
    assert ops.convert_to_numpy(found)[0, 0] == pytest.approx(-4 / 25, rel=1e-4)
