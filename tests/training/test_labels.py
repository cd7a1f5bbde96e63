"""NaN in float targets means: no label here."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from compiled import COMPILES, compiled
from polytape.training.losses.keras_losses import resolve_loss
from polytape.training.losses.missing_labels import known, masked

RNG = np.random.default_rng(0)
EPSILON = 1e-7


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def huber(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    size = np.abs(y - p)
    return np.where(size <= 1, 0.5 * size**2, size - 0.5)


# Name -> the loss of every number in float64, or of every row
NUMBERS = {
    "mse": lambda y, p: (y - p) ** 2,
    "mae": lambda y, p: np.abs(y - p),
    "huber": huber,
    "binary_crossentropy": lambda y, p: -(y * np.log(p) + (1 - y) * np.log(1 - p)),
}
ROWS = {
    "categorical_crossentropy": lambda y, p: -(y * np.log(p)).sum(-1),
    "sparse_categorical_crossentropy": lambda y, p: (
        -np.log(np.take_along_axis(p, np.nan_to_num(y).astype(int)[..., None], -1)[..., 0])
    ),
}
SHAPES = {"2-D": (6, 3), "4-D": (3, 2, 5, 4)}


def batch(name: str, shape: tuple[int, ...], holes: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, some of them NaN, and outputs."""
    p = softmax(RNG.normal(size=shape)) if name in ROWS else RNG.uniform(0.1, 0.9, shape)
    if name == "categorical_crossentropy":
        y = np.eye(shape[-1])[RNG.integers(0, shape[-1], shape[:-1])]
    elif name in ROWS:
        y = RNG.integers(0, shape[-1], shape[:-1]).astype(float)
    else:
        y = RNG.integers(0, 2, shape) if "cross" in name else RNG.normal(size=shape) * 2
        y = y.astype(float)
    y.reshape(-1)[RNG.permutation(y.size)[:holes]] = np.nan
    return y.astype("float32"), p.astype("float32")


def oracle(name: str, y: np.ndarray, p: np.ndarray, weight: Any, reduction: str) -> Any:
    y, p = y.astype("float64"), p.astype("float64")
    losses = {**NUMBERS, **ROWS}[name](np.nan_to_num(y), p)
    labelled = ~np.isnan(y)
    if name == "categorical_crossentropy":
        labelled = labelled.all(-1)
    given = np.ones(p.shape[:-1]) if weight is None else weight
    weights = np.broadcast_to(given[..., None] if name in NUMBERS else given, losses.shape)
    total = (losses * weights * labelled).sum()
    if reduction == "sum":  # Keras sums means over the last axis
        return total / (p.shape[-1] if name in NUMBERS else 1), labelled.sum()
    count = (labelled * weights).sum() if "weight" in reduction else labelled.sum()
    return total / count, labelled.sum()


def with_reduction(name: str, reduction: str) -> keras.losses.Loss:
    loss = resolve_loss(name)
    loss.reduction = reduction
    return loss


def numbers(pair: Any) -> tuple[np.ndarray, ...]:
    return tuple(ops.convert_to_numpy(value) for value in pair)


@pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
@pytest.mark.parametrize("name", [*NUMBERS, *ROWS])
def test_what_is_missing_counts_neither_above_nor_below(name, shape):
    y, p = batch(name, shape, holes=4)
    weight = RNG.uniform(0.5, 2, shape[:-1]).astype("float32")
    for reduction in ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight"):
        for given in (None, weight):
            found = numbers(masked(with_reduction(name, reduction), y, p, given))
            np.testing.assert_allclose(found, oracle(name, y, p, given, reduction), rtol=1e-5)


@pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
@pytest.mark.parametrize("name", [*NUMBERS, *ROWS])
def test_the_bits_are_those_of_keras_where_nothing_is_missing(name, shape):
    y, p = batch(name, shape)
    weight = RNG.uniform(0.5, 2, shape[:-1]).astype("float32")
    loss = with_reduction(name, "sum_over_batch_size")

    def ours(y, p, weight):
        return masked(loss, y, p)[0], masked(loss, y, p, weight)[0]

    def keras_own(y, p, weight):
        return loss(y, p), loss(y, p, weight)

    tensors = [ops.convert_to_tensor(value) for value in (y, p, weight)]
    forms = {"op by op": (lambda fn: fn, 0)}
    if keras.backend.backend() == "tensorflow":
        forms["graph"] = lambda fn: compiled(fn, xla=False), 0
    if COMPILES:  # XLA rounds as it fuses
        forms["XLA"] = compiled, 2e-7
    for form, rtol in forms.values():
        found, right = numbers(form(ours)(*tensors)), numbers(form(keras_own)(*tensors))
        np.testing.assert_allclose(found, right, rtol=rtol, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_with_sample_weight"])
def test_bits_of_other_reductions(reduction):
    y, p = batch("mse", (7, 3))
    for weight in (None, RNG.uniform(0.5, 2, 7).astype("float32"), np.zeros(7, "float32")):
        loss = with_reduction("mse", reduction)
        found, count = numbers(masked(loss, y, p, weight))
        assert found == ops.convert_to_numpy(loss(y, p, weight))
        assert count == 21


@pytest.mark.parametrize("xla", [True, False] if COMPILES else [False])
@pytest.mark.parametrize("name", [*NUMBERS, *ROWS])
def test_gradients_are_finite_and_of_what_is_labelled(name, xla):
    y, p = batch(name, (6, 3), holes=5)
    loss = with_reduction(name, "sum_over_batch_size")
    hidden = np.isnan(y) if name in NUMBERS else np.isnan(y.reshape(6, -1)).any(-1)

    def values(y, p):
        return gradient(lambda q: masked(loss, y, q)[0], p)

    found = numbers([compiled(values, xla=xla)(*map(ops.convert_to_tensor, (y, p)))])[0]
    assert np.isfinite(found).all()
    assert (found[hidden] == 0).all()
    assert np.abs(found[~hidden]).sum(-1).all()
    nothing = np.full_like(y, np.nan)
    compute = compiled(lambda y, p: (*masked(loss, y, p), values(y, p)), xla=xla)
    value, count, slope = numbers(compute(*map(ops.convert_to_tensor, (nothing, p))))
    assert value == 0
    assert count == 0
    assert (slope == 0).all()


def gradient(fn: Any, at: Any) -> Any:
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(fn)(at)
    if keras.backend.backend() == "torch":
        import torch

        at = at.detach().requires_grad_()
        return torch.autograd.grad(fn(at), at)[0]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(at)
        value = fn(at)
    return tape.gradient(value, at)


class Hidden(keras.layers.Layer):
    """Hides the first two time steps of every sample from the loss."""

    def call(self, inputs: Any) -> Any:
        return inputs * 1.0

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return ops.broadcast_to(ops.arange(ops.shape(inputs)[1]) > 1, ops.shape(inputs)[:2])


@pytest.mark.parametrize("name", ["mse", "sparse_categorical_crossentropy"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_mask_of_keras_counts_too(name, reduction):
    y, p = batch(name, (3, 5, 4), holes=8)
    loss, layer = with_reduction(name, reduction), Hidden()
    assert float(loss(np.nan_to_num(y), layer(p))) != float(loss(np.nan_to_num(y), p))
    found = numbers(masked(loss, y, layer(p)))
    np.testing.assert_allclose(found, oracle(name, y[:, 2:], p[:, 2:], None, reduction), rtol=1e-5)
    y, p = batch(name, (3, 5, 4))
    found, count = numbers(masked(loss, y, layer(p)))
    assert found == ops.convert_to_numpy(loss(y, layer(p)))
    assert count == y[:, 2:].size


def test_samples_marked_in_one_shape_or_another():
    y, p = np.array([1.0, np.nan, 4.0], "float32"), np.zeros(3, "float32")
    loss = with_reduction("mse", "mean")
    for targets, outputs in [(y, p), (y[:, None], p), (y, p[:, None]), (y[:, None], p[:, None])]:
        assert numbers(masked(loss, targets, outputs)) == (8.5, 2)
    y, p = batch("sparse_categorical_crossentropy", (6, 3), holes=2)
    loss = with_reduction("sparse_categorical_crossentropy", "mean")
    assert numbers(masked(loss, y[:, None], p)) == numbers(masked(loss, y, p))


def test_a_function_that_keeps_every_number():
    y = np.array([[1.0, np.nan], [2.0, 3.0]], "float32")
    loss = resolve_loss(lambda y_true, y_pred: ops.square(y_true - y_pred))
    np.testing.assert_allclose(numbers(masked(loss, y, np.zeros_like(y))), (14 / 3, 3), rtol=1e-6)


def test_volumes_and_sequences_that_a_loss_takes_as_one_sample():
    y, p = batch("binary_crossentropy", (3, 2, 2, 1))
    y[1, 0, 1] = np.nan
    loss = keras.losses.Dice(axis=(1, 2, 3))
    right = ops.convert_to_numpy(loss(y[[0, 2]], p[[0, 2]]))
    np.testing.assert_allclose(numbers(masked(loss, y, p)), (right, 2), rtol=1e-6)


def test_a_class_that_keras_ignores():
    y, p = batch("sparse_categorical_crossentropy", (8, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=2)
    y[:2], y[2] = np.nan, 2
    chosen = y < 2
    assert 0 < chosen.sum() < 6
    right = oracle("sparse_categorical_crossentropy", y[chosen], p[chosen], None, "mean")
    np.testing.assert_allclose(numbers(masked(loss, y, p)), right, rtol=1e-5)


def test_a_loss_of_the_whole_batch_deals_with_it_itself():
    def own(y_true, y_pred):
        there = ~ops.isnan(y_true)
        return ops.sum(ops.where(there, y_pred, 0.0)) / ops.sum(ops.cast(there, "float32"))

    y, p = np.array([[1.0], [np.nan]], "float32"), np.array([[3.0], [5.0]], "float32")
    assert numbers(masked(resolve_loss(own), y, p)) == (3, 2)
    assert np.isnan(numbers(masked(resolve_loss(lambda t, o: ops.mean(t - o)), y, p))[0])
    assert numbers(masked(resolve_loss(own), np.full_like(y, np.nan), p)) == (0, 0)
    square = resolve_loss(lambda t, o: ops.mean((t - o) ** 2))
    slope = gradient(
        lambda q: masked(square, np.full_like(y, np.nan), q)[0], ops.convert_to_tensor(p)
    )
    assert not numbers([slope])[0].any()


def test_a_loss_that_compares_samples_is_left_alone():
    labels = np.array([0.0, 1.0, 0.0, 2.0], "float32")
    vectors = keras.utils.normalize(RNG.normal(size=(4, 3))).astype("float32")
    circle = keras.losses.Circle(gamma=80)  # some are 0, and Keras leaves them out
    assert numbers(masked(circle, labels, vectors))[0] == ops.convert_to_numpy(
        circle(labels, vectors)
    )


def test_integers_are_left_alone():
    y, p = np.array([0, 2, 1]), softmax(RNG.normal(size=(3, 3))).astype("float32")
    loss = with_reduction("sparse_categorical_crossentropy", "mean")
    assert known(y, p) is None
    assert numbers(masked(loss, y, p)) == (ops.convert_to_numpy(loss(y, p)), 3)


def test_one_label_among_many_in_half_precision():
    y, p = np.full((300, 300), np.nan, "float16"), np.zeros((300, 300), "float16")
    y[7, 7] = 30.0
    loss = keras.losses.MeanAbsoluteError(dtype="float16")
    value, count = masked(loss, y, p)
    assert keras.backend.standardize_dtype(value.dtype) == "float16"
    np.testing.assert_allclose(numbers((value, count)), (30, 1), rtol=2e-2)  # Keras divides by 300


def test_known():
    nan = np.nan
    rows = known(np.array([[1.0, nan], [1.0, 2.0]]), np.zeros((2, 2)))
    np.testing.assert_array_equal(numbers([rows])[0], [False, True])
    for y in (np.array([1.0, nan]), np.array([[1.0], [nan]])):
        for p in (np.zeros((2, 4)), np.zeros(2)):
            np.testing.assert_array_equal(numbers([known(y, p)])[0], [True, False])
    steps = known(np.array([[1.0, nan, 0.0]]), np.zeros((1, 3, 5)))
    np.testing.assert_array_equal(numbers([steps])[0], [[True, False, True]])


def test_a_function_without_a_good_name_is_compiled():
    def _own(y_true, y_pred):
        return ops.mean((y_true - y_pred) ** 2, axis=-1)

    y, p = (ops.convert_to_tensor(values) for values in batch("mse", (4, 2)))
    for function in (_own, lambda y_true, y_pred: _own(y_true, y_pred)):
        loss = resolve_loss(function)
        value = compiled(lambda y, p, loss=loss: masked(loss, y, p)[0], xla=False)(y, p)
        np.testing.assert_allclose(
            ops.convert_to_numpy(value),
            ops.convert_to_numpy(keras.losses.MeanSquaredError()(y, p)),
            rtol=1e-6,
        )
