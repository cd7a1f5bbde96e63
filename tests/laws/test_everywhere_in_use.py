"""Every method in the places where methods are used: scopes, wrappers, half precision, checkpoints.

That each works with 64 objectives is part of the laws: one of their matrices has 64 rows.
"""

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled
from linear import objective, random_rows, variables_of
from polytape.catalogue import all_methods
from polytape.contract import (
    Evidence,
    Method,
    PerObjective,
    Products,
    Seed,
    State,
    Tensor,
    evaluate,
)
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

METHODS = all_methods()
NAMES = ("a", "b", "c")
REACH = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
ROWWISE = "a row-wise method has no weights to hand on"
SAMPLES = "the gradients of single samples come from training only"


def blocks(seed: int) -> Array:
    """Rows (B, T, n) of three variables, of which objective b does not reach the second."""
    return np.random.default_rng(seed).normal(size=(3, 3, 5)) * REACH[..., None]


def gramians(rows: Array) -> Array:
    return np.float32(rows @ rows.swapaxes(-1, -2))


def draws(method: type[Method]) -> bool:
    return "batch" in method.exempt


@cache
def seed() -> Any:
    return keras.random.SeedGenerator(3).next()


def asked(method: Method, reach: Array | None = None) -> Any:
    """(gramian, losses, active, step, state) -> weights and next state, compiled."""
    drawn = seed()

    def question(
        gramian: Tensor, losses: Tensor, active: Tensor, step: Tensor, state: State
    ) -> Any:
        known = Evidence(losses, gramian, active, NAMES, step, Seed(drawn), reach)
        if "half_batches" in (*method.evidence, *getattr(method, "inner", method).evidence):
            known = Evidence(**{**vars(known), "readings": {"cross": Products(gramian)}})
        if "sample_traces" in getattr(method, "inner", method).evidence:
            readings = {"traces": PerObjective(losses, unsigned=True)}
            known = Evidence(**{**vars(known), "readings": readings})
        if "previous_losses" in getattr(method, "inner", method).evidence:
            readings = {"previous": PerObjective(0.9 * losses)}
            known = Evidence(**{**vars(known), "readings": readings})
        return evaluate(method, known, state)

    run = compiled(question)

    def give(gramian: Array, losses: Array, active: Array, step: int, state: State) -> Any:
        given = (ops.convert_to_tensor(np.asarray(value)) for value in (gramian, losses, active))
        return run(*given, ops.convert_to_tensor(np.int32(step)), state)

    return give


@cache
def every_second(name: str) -> tuple[Method, Any]:
    method = pt.Every(METHODS[name](), steps=2)
    return method, asked(method)


def tensors(state: State) -> State:
    return keras.tree.map_structure(ops.convert_to_tensor, state)


@pytest.mark.parametrize("name", METHODS)
def test_per_variable(name: str) -> None:
    """Each variable is settled by those that reach it, as if it were alone."""
    method = METHODS[name]()
    if method.needs == "rows":
        with pytest.raises(ValueError, match=r"coordinate by coordinate|sees the rows themselves"):
            pt.PerVariable(method)
        pytest.skip(ROWWISE)
    if method.scope is not None:
        with pytest.raises(ValueError, match="a scope inside a scope"):
            pt.PerVariable(method)
        pytest.skip("it has a scope of its own, tested with the method")
    rows, losses = blocks(0), np.array([1.0, 0.7, 2.0], "float32")
    state = tensors(method.init(NAMES, (3,)))
    everyone = np.ones(3, bool)
    ask_all = asked(pt.PerVariable(method), REACH)
    weights, after = ask_all(gramians(rows), losses, everyone, 0, state)
    weights = ops.convert_to_numpy(weights)
    assert weights.shape == (3, 3)
    assert np.isfinite(weights).all()
    assert weights[1, 1] == 0
    weights_again, _ = ask_all(gramians(blocks(1)), losses, everyone, 1, after)
    assert np.isfinite(ops.convert_to_numpy(weights_again)).all()
    if draws(METHODS[name]):
        return
    now_and_then, ask_one = every_second(name)  # in its first step it asks the method
    for block in range(3):
        own = tensors(now_and_then.init(NAMES))
        alone, _ = ask_one(gramians(rows[block]), losses * REACH[block], REACH[block], 0, own)
        right = ops.convert_to_numpy(alone)
        size = np.abs(right) @ np.linalg.norm(rows[block], axis=1)
        apart = rows[block].T @ (weights[block] - right)
        np.testing.assert_allclose(apart, 0, atol=1e-3 * size)


@pytest.mark.parametrize("name", METHODS)
def test_inside_every(name: str) -> None:
    """Fresh weights in the first and third of four steps, and a state that moves then only."""
    if METHODS[name].needs == "rows":
        pytest.skip(ROWWISE)
    method, run = every_second(name)
    state, found = tensors(method.init(NAMES)), []
    for step in range(4):
        losses = np.float32([1.0, 0.7 + 0.1 * step, 2.0])
        weights, state = run(gramians(blocks(step)[0]), losses, np.ones(3, bool), step, state)
        leaves = [ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(state)]
        found.append([ops.convert_to_numpy(weights), *leaves])
    for fresh, reused in ((0, 1), (2, 3)):
        assert np.isfinite(found[fresh][0]).all()
        for before, after in zip(found[fresh], found[reused], strict=True):
            np.testing.assert_array_equal(before, after)


def in_halves(losses: Any, method: type[Method]) -> Any:
    """The objective function for methods that want two half batches: here, equal ones."""
    if "half_batches" not in method.evidence:
        return losses
    return lambda: {name: (loss, loss) for name, loss in losses().items()}


def halved(rows: dict[str, list[Array]]) -> dict[str, list[Array]]:
    return {path: [np.float16(row) for row in columns] for path, columns in rows.items()}


@pytest.mark.engine
@pytest.mark.parametrize("name", METHODS)
def test_half_precision(name: str) -> None:
    """Rows in float16: the Gramian is taken in float32, and the update is finite and the same."""
    if "sample_traces" in METHODS[name].evidence:
        pytest.skip(SAMPLES)
    rows = halved(random_rows(5))
    variables, small = variables_of(rows), variables_of(rows, "float16")

    def losses() -> dict[str, Any]:
        found = {}
        for t, key in enumerate(NAMES):
            terms = (
                v * ops.convert_to_tensor(c[t]) for v, c in zip(small, rows.values(), strict=True)
            )
            found[key] = sum(ops.sum(term) for term in terms)
        return found

    method = METHODS[name]
    grads = pt.gradients(in_halves(losses, method), small)
    assert keras.backend.standardize_dtype(grads["a"][0].dtype) == "float16"
    combiner = pt.Combiner(method())
    combiner.prepare(NAMES, small)
    start = [np.array(ops.convert_to_numpy(v.value)) for v in combiner.variables]
    found = [np.float64(ops.convert_to_numpy(part)) for part in combiner(grads)]
    assert all(np.isfinite(part).all() for part in found)
    for variable, value in zip(combiner.variables, start, strict=True):
        variable.assign(value)
    whole = in_halves(objective(rows, variables), method)
    full = combiner(pt.gradients(whole, variables))
    size = sum(np.abs(row).sum() for columns in rows.values() for row in columns)
    for one, other in zip(found, full, strict=True):
        np.testing.assert_allclose(one, ops.convert_to_numpy(other), atol=5e-3 * size)


@keras.saving.register_keras_serializable(package="tests")
class Carrier(keras.Model):
    """A model that is nothing but a method at work."""

    def __init__(self, method: Method, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.method = method
        self.combiner = pt.Combiner(method, seed=4)
        self.combiner.prepare(NAMES, variables_of(random_rows()))
        self.built = True

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        return {"method": keras.saving.serialize_keras_object(self.method)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Carrier":
        return cls(keras.saving.deserialize_keras_object(config["method"]))

    def learn(self, step: int) -> list[Array]:
        rows = random_rows(step)
        variables = variables_of(rows)
        losses = in_halves(objective(rows, variables), type(self.method))
        update = self.combiner(pt.gradients(losses, variables))
        return [ops.convert_to_numpy(part) for part in update]


@pytest.mark.engine
@pytest.mark.parametrize("name", METHODS)
def test_resumed_from_a_file_bit_for_bit(name: str, tmp_path: Path) -> None:
    if "sample_traces" in METHODS[name].evidence:
        pytest.skip(SAMPLES)
    model = Carrier(METHODS[name]())
    for step in range(3):
        model.learn(step)
    model.save(tmp_path / "carrier.keras")
    again = keras.models.load_model(tmp_path / "carrier.keras")
    for mine, other in zip(model.combiner.variables, again.combiner.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (mine.value, other.value)))
    for one, other in zip(model.learn(3), again.learn(3), strict=True):
        np.testing.assert_array_equal(one, other)
    for mine, other in zip(model.combiner.variables, again.combiner.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (mine.value, other.value)))


@pytest.mark.parametrize(
    "name", [n for n in METHODS if {"half_batches", "sample_traces"} & {*METHODS[n].evidence}]
)
def test_state_of_half_batch_and_sample_methods_goes_into_fresh_arrays(name: str) -> None:
    trial = Trial(METHODS[name](), compiled)
    rows, active, state = blocks(0)[0], np.ones(3, bool), trial.start((3,))
    for _ in range(2):
        _, state = trial.step(rows, np.ones(3), active, state)
    copy = keras.tree.map_structure(lambda leaf: np.array(ops.convert_to_numpy(leaf)), state)
    pairs = [trial.step(rows, np.ones(3), active, start) for start in (state, tensors(copy))]
    np.testing.assert_array_equal(pairs[0][0], pairs[1][0])
