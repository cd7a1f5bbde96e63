"""Networks in float64, bfloat16 and float16: every method weighs in float32, and every update has
the type of its variable."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers import SGD

import polytape as pt
from polytape.catalogue import all_methods
from polytape.contract import Method

pytestmark = pytest.mark.engine

METHODS = all_methods()
BACKEND = keras.backend.backend()
FLOATX = ("float64", "bfloat16")
POLICIES = ("float64", "bfloat16", "mixed_bfloat16", "mixed_float16")
KINDS = [*(f"floatx {name}" for name in FLOATX), *POLICIES]
# One method of each way through the step: one pass, a second look at the losses, a Gramian, half
# batches, single samples, a memory of the rows, coordinate by coordinate.
WAYS = ("Sum", "FAMO", "MGDA", "SDMGrad", "NTK", "DBMTL", "GradDrop")
RNG = np.random.default_rng(5)
X = RNG.normal(size=(4, 3)).astype("float32")
Y = {"a": X[:, :1], "b": 0.5 - X[:, :1]}
# Of a step of about one, relative to what the type of the gradients can tell.
ROUNDING = {"float64": 1e-5, "bfloat16": 0.1, "mixed_bfloat16": 0.1, "mixed_float16": 0.02}


def kind_of(value: Any) -> str:
    return str(keras.backend.standardize_dtype(value.dtype))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    _wide(False)


def _wide(on: bool) -> None:
    """JAX knows float64 only where it is told to."""
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", on)


def use(kind: str) -> str:
    """Make layers of a kind from now on; the policy that this comes to."""
    policy = kind.removeprefix("floatx ")
    if policy != kind:
        keras.config.set_floatx(policy)
    keras.config.set_dtype_policy(policy)
    _wide("float64" in kind)
    return policy


def traced(function: Callable[[], Any]) -> Any:
    """What a function of no arguments returns, or what stands for it while it is traced."""
    if BACKEND == "jax":
        import jax

        return jax.eval_shape(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function).get_concrete_function().structured_outputs
    return function()


def evidence(method: Method) -> dict[str, Any]:
    given: dict[str, Any] = {"losses": np.array([1.0, 2.0])}
    if "half_batches" in method.evidence:
        given["cross"] = np.eye(2)
    if "sample_traces" in method.evidence:
        given["traces"] = np.array([1.0, 9.0])
    return given


@pytest.mark.parametrize("floatx", FLOATX)
@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.memory is None])
def test_weights_and_state_are_float32(name: str, floatx: str) -> None:
    use(f"floatx {floatx}")
    method, gramian = METHODS[name](), np.array([[1.0, -0.5], [-0.5, 2.0]])

    def twice() -> Any:
        _, state = pt.weigh(method, gramian, **evidence(method))
        return pt.weigh(method, gramian, **evidence(method), state=state, step=1)

    weights, state = traced(twice)
    assert kind_of(weights) == "float32"
    initial = method.init(("0", "1"), ())
    for leaf, first in zip(*map(keras.tree.flatten, (state, initial)), strict=True):
        assert kind_of(leaf) == kind_of(np.asarray(first))
    assert keras.config.floatx() == floatx


def network() -> pt.Model:
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(2, activation="tanh", name="trunk")(inputs)
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in "ab"})
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))
    return model


def numbers(values: list[Any]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(ops.cast(value, "float32")) for value in values]


def fitted(name: str) -> tuple[pt.Model, list[np.ndarray]]:
    """A model after two steps, and how far these went."""
    model = network()
    before = numbers(model.trainable_variables)
    optimizer: Any = SGD(0.1)
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
    model.compile(optimizer, loss="mse", combine=METHODS[name](), seed=3, run_eagerly=True)
    model.fit(X, Y, batch_size=2, shuffle=False, verbose=0)
    pairs = zip(numbers(model.trainable_variables), before, strict=True)
    return model, [after - first for after, first in pairs]


def combined(name: str) -> tuple[pt.Gradients, list[Any], list[Any]]:
    """Gradients, the first update of a loop, and the variables."""
    model, method = network(), METHODS[name]()
    combiner = pt.Combiner(method, seed=3)

    def loss(y: Any, p: Any) -> Any:
        return ops.mean(ops.square(p - ops.cast(y, p.dtype)))

    def losses() -> dict[str, Any]:
        outputs = model(ops.convert_to_tensor(X))
        if "half_batches" not in method.evidence:
            return {name: loss(Y[name], outputs[name]) for name in "ab"}
        halves = slice(0, 2), slice(2, 4)
        return {n: tuple(loss(Y[n][half], outputs[n][half]) for half in halves) for n in "ab"}

    traces = np.array([1.0, 9.0], "float32") if "sample_traces" in method.evidence else None
    grads = pt.gradients(losses, model.trainable_variables)
    update = combiner(grads, traces) if traces is not None else combiner(grads)
    return grads, update, model.trainable_variables


@functools.cache
def right(name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """How far two steps go, and the first update of a loop, in float32."""
    return fitted(name)[1], numbers(combined(name)[1])


# All kinds for one of them; the widest, and the one with a loss scale, for all.
ALL, FOR_ALL = "MGDA", ("floatx float64", "mixed_float16")
CASES = [(name, kind) for name in WAYS for kind in KINDS if name == ALL or kind in FOR_ALL]


@pytest.mark.filterwarnings("ignore:pt.gradients under the policy mixed_float16")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_step_is_that_of_float32(name: str, kind: str) -> None:
    steps, wanted = right(name)
    policy = use(kind)
    near = {"rtol": ROUNDING[policy], "atol": ROUNDING[policy]}
    model, moved = fitted(name)
    stored = "float32" if policy.startswith("mixed") else policy
    assert kind_of(model.trainable_variables[0]) == stored
    for found, step in zip(moved, steps, strict=True):
        np.testing.assert_allclose(found, step, **near)
    assert all(np.abs(step).max() > 1e-3 for step in moved)
    grads, update, variables = combined(name)
    assert kind_of(grads.gramian) == kind_of(grads.norms) == kind_of(grads.cosines) == "float32"
    for found, step, variable in zip(update, wanted, variables, strict=True):
        assert kind_of(found) == kind_of(variable)
        np.testing.assert_allclose(numbers([found])[0], step, **near)


SETTINGS: dict[str, dict[str, Any]] = {
    "labels": {"combine": "upgrad", "private": "weighted"},
    "halves": {"combine": pt.SDMGrad(), "phases": ["a", "b"]},
    "outputs": {"combine": "mgda", "measure": "outputs"},
    "isolate": {"combine": "uw", "on_nonfinite": "isolate"},
    "in turn": {"combine": pt.Every(pt.Smoothed(pt.UPGrad()), steps=2), "private": "joint"},
}


@pytest.mark.parametrize("floatx", FLOATX)
@pytest.mark.parametrize("name", SETTINGS)
def test_objectives_and_other_ways_in_that_type(name: str, floatx: str) -> None:
    use(f"floatx {floatx}")
    model = network()
    before = numbers(model.trainable_variables)
    given = [pt.Objective("a", "mse"), pt.Objective("b", "mae", weight=0.5)]
    model.compile(
        {"trunk": SGD(0.5), "*": SGD(1.0)},  # Adam's decay of 0.999 is 1 in bfloat16
        objectives=given,
        metrics={"a": ["mae"]},
        run_eagerly=True,
        verbose=0,
        **SETTINGS[name],
    )
    holed = {"a": np.where(X[:, 1:2] > 0, Y["a"], np.nan), "b": Y["b"]}
    options = {"batch_size": 2, "shuffle": False, "verbose": 0, "validation_data": (X, holed)}
    found = model.fit(X, holed, **options, sample_weight=np.array([1.0, 0.5, 2.0, 1.0])).history
    assert all(np.isfinite(float(values[0])) for values in found.values())
    pairs = zip(numbers(model.trainable_variables), before, strict=True)
    assert all((after != first).any() for after, first in pairs)
    assert "?" not in model.routing_table(X, holed)


def test_rows_of_float64_are_added_up_in_float64() -> None:
    use("floatx float64")
    big, small = 1.0, 2.0**-40  # float32 would lose it
    w = keras.Variable(np.ones(2), dtype="float64")
    constants = [ops.convert_to_tensor(np.array([big, sign * small])) for sign in (1.0, 3.0)]
    grads = pt.gradients(
        lambda: {name: ops.sum(w.value * c) for name, c in zip("ab", constants, strict=True)}, [w]
    )
    found = ops.convert_to_numpy(pt.Combiner(pt.Mean())(grads)[0])
    np.testing.assert_array_equal(found, [big, 2 * small])
    sums = pt.Combiner(pt.TrimmedMean(trim=0, scale="mean"))(grads)  # sees the numbers in float32
    assert kind_of(sums[0]) == "float64"
    different = ops.convert_to_numpy(grads.combine(pt.MGDA(scale="mean"))[0])
    assert different[1] != 0
