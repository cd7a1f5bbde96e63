"""What some methods see of single samples: the norms of their gradients, now and then."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.engines import engine
from polytape.testing.matrices import Array

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype("float32")
Y = {"a": X[:, :1] + 1, "b": np.float32(-2 * X[:, 1:] + 1)}


def linear(loss: Any = "mse", **compiled: Any) -> pt.Model:
    """y = x W V_a and x W V_b, one output and two."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(2, use_bias=False, name="trunk")(inputs)
    heads = {
        k: keras.layers.Dense(y.shape[1], use_bias=False, name=k)(hidden) for k, y in Y.items()
    }
    model = pt.Model(inputs, heads)
    options = {"combine": pt.NTK(samples=4), **compiled}
    model.compile(keras.optimizers.SGD(0.01), dict.fromkeys(Y, loss), **options)
    return model


def kernels(model: pt.Model) -> dict[str, Array]:
    return {
        k: ops.convert_to_numpy(model.get_layer(k).kernel).astype("float64") for k in ("trunk", *Y)
    }


def held(model: pt.Model) -> Array:
    state = model.plan.aggregator.state.read()["scalarization"]
    return np.array(ops.convert_to_numpy(state["traces"]))


def by_loop(model: pt.Model, count: int, sample_weights: dict[str, Array] | None = None) -> Array:
    """|d r / d (W, V)|^2 of r = sqrt(s) |y - x W V| / sqrt(outputs), sample after sample."""
    known, found = kernels(model), []
    for k, y in Y.items():
        scales = np.ones(len(X)) if sample_weights is None else sample_weights[k]
        total = 0.0
        for n in range(count):
            x, first, head = np.float64(X[n]), known["trunk"], known[k]
            gap = x @ first @ head - y[n]
            back = np.sqrt(scales[n] / y.shape[1]) * gap / np.linalg.norm(gap)
            by_trunk, by_head = np.outer(x, head @ back), np.outer(x @ first, back)
            total += (by_trunk**2).sum() + (by_head**2).sum()
        found.append(total / count)
    return np.array(found)


@pytest.mark.parametrize("samples", [1, 4, 100])
def test_traces_are_those_of_a_loop_over_samples(samples: int) -> None:
    model = linear(combine=pt.NTK(samples=samples))
    right, before = by_loop(model, min(samples, 6)), kernels(model)
    model.train_on_batch(X, Y)
    np.testing.assert_allclose(held(model), right, rtol=1e-4)
    weights = dict(zip(Y, right.mean() / right, strict=True))
    plain = linear(combine="sum", loss_weights=weights)
    plain.train_on_batch(X, Y)
    moved = kernels(plain)
    for name, value in kernels(model).items():  # private kernels are weighed, too
        np.testing.assert_allclose(value - before[name], moved[name] - before[name], rtol=1e-3)


def test_weights_of_losses_and_samples_and_reductions_count() -> None:
    sample_weights = {"a": np.array([1, 0, 2, 1, 1, 3.0]), "b": np.array([0.5, 1, 0, 0, 1, 1.0])}
    summed = keras.losses.MeanSquaredError(reduction="sum")
    model = linear(summed, loss_weights={"a": 3.0, "b": 0.25})
    right = by_loop(model, 4, sample_weights) * np.array([3.0, 0.25]) * len(X)
    model.train_on_batch(X, Y, sample_weight=sample_weights)
    np.testing.assert_allclose(held(model), right, rtol=1e-4)


def test_an_objective_without_a_label_keeps_its_trace() -> None:
    model = linear(combine=pt.NTK(samples=4, steps=1))
    everyone = dict.fromkeys(Y, np.ones(6))
    model.train_on_batch(X, Y, sample_weight=everyone)
    first, right = held(model), by_loop(model, 4)
    model.train_on_batch(X, Y, sample_weight={**everyone, "b": np.zeros(6)})
    np.testing.assert_allclose(held(model)[0], right[0], rtol=1e-4)
    assert held(model)[1] == first[1]


def test_a_loss_that_is_not_finite_keeps_its_trace() -> None:
    model = linear(combine=pt.NTK(samples=4, steps=1), on_nonfinite="isolate")
    model.train_on_batch(X, Y)
    first, right = held(model), by_loop(model, 4)
    with pytest.warns(RuntimeWarning, match="not finite"):
        model.fit(
            X, {**Y, "b": np.full_like(Y["b"], np.inf)}, batch_size=6, shuffle=False, verbose=0
        )
    np.testing.assert_allclose(held(model)[0], right[0], rtol=1e-4)
    assert held(model)[1] == first[1]


def test_a_perfect_sample_counts_zero() -> None:
    model = linear()
    exact = {k: ops.convert_to_numpy(v) for k, v in model(X).items()}
    exact["a"] = exact["a"] + np.array([[0], [0], [1], [0], [0], [0]], "float32")
    model.train_on_batch(X, exact)
    assert np.isfinite(held(model)).all()
    assert held(model)[0] > 0


def test_measured_in_one_step_out_of_some() -> None:
    model = linear(combine=pt.NTK(samples=4, steps=3, decay=0.5))
    right = None
    for step in range(7):
        fresh, before = by_loop(model, 4), held(model)
        model.train_on_batch(X, Y)
        if step % 3 == 0:
            right = fresh if right is None else 0.5 * right + 0.5 * fresh
            assert (held(model) != before).all()
        np.testing.assert_allclose(held(model), right, rtol=1e-4)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX traces both branches")
def test_a_step_in_between_costs_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    pulls = []
    record = engine().record

    def counting(*args: Any, **kwargs: Any) -> Any:
        found = record(*args, **kwargs)
        vjp = found.vjp
        found.vjp = lambda *given: [pulls.append(1), vjp(*given)][1]
        return found

    model = linear(combine=pt.NTK(samples=4, steps=3), run_eagerly=True)
    model.train_on_batch(X, Y)
    monkeypatch.setattr(engine(), "record", counting)
    counts = []
    for _ in range(3):
        pulls.clear()
        model.train_on_batch(X, Y)
        counts.append(len(pulls))
    assert counts == [1, 1, 4 * len(Y) + 1]


@pytest.mark.parametrize(
    "combine",
    [
        pt.Chain(pt.NTK(samples=2, steps=2), pt.Every(pt.UPGrad(), 2)),
        pt.Chain(pt.Normalize(), pt.NTK(samples=2, steps=2)),
        pt.Every(pt.NTK(samples=2, steps=4), 2),
    ],
    ids=("before a combination", "behind a stage", "inside a wrapper"),
)
def test_it_trains_with_other_stages(combine: pt.Method) -> None:
    model = linear(combine=combine)
    history = model.fit(X, Y, batch_size=3, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a matter of tf.function")
def test_without_xla_and_with_a_batch_size_that_is_not_known() -> None:
    import tensorflow as tf

    model = linear(jit_compile=False)
    right = by_loop(model, 4)
    model.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(6), verbose=0)
    np.testing.assert_allclose(held(model), right, rtol=1e-4)


def test_embeddings_and_masks() -> None:
    """Sparse gradients are summed before they are squared, and masked entries do not count."""
    inputs = keras.Input((4,), dtype="int32")
    found = keras.layers.Embedding(5, 2, mask_zero=True, name="table")(inputs)
    outputs = {k: keras.layers.Dense(1, use_bias=False, name=k)(found) for k in "ab"}
    model = pt.Model(inputs, outputs)
    model.compile("sgd", dict.fromkeys("ab", "mse"), combine=pt.NTK(samples=1))
    words = np.array([[1, 1, 2, 0], [3, 3, 0, 0], [4, 1, 1, 1]])
    table = ops.convert_to_numpy(model.get_layer("table").embeddings).astype("float64")
    heads = {k: ops.convert_to_numpy(model.get_layer(k).kernel)[:, 0] for k in "ab"}
    model.train_on_batch(words, dict.fromkeys("ab", np.ones((3, 4, 1))))
    # Keras scales what is not masked (9 of 12) up to the whole; r = sqrt of a sum of squares.
    right = []
    for head in heads.values():
        gaps = table[words[0, :3]] @ head - 1
        back = np.sqrt(12 / 9 / 4) * gaps / np.linalg.norm(gaps)
        by_table = np.zeros((5, 2))
        np.add.at(by_table, words[0, :3], back[:, None] * head)
        by_head = back @ table[words[0, :3]]
        right.append((by_table**2).sum() + (by_head**2).sum())
    np.testing.assert_allclose(held(model), right, rtol=1e-4)


def test_a_loss_of_the_whole_batch_has_no_samples() -> None:
    def whole(y_true: Any, y_pred: Any) -> Any:
        return ops.mean((y_true - y_pred) ** 2)

    model = linear(loss=whole)
    with pytest.raises(ValueError, match="one number for the whole batch"):
        model.train_on_batch(X, Y)
