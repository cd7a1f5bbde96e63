"""Metrics see labelled samples only, and are Keras's own where nothing is missing."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from polytape.training.losses.label_metrics import of_labels

ROWS = 12
BATCH = 7  # of the twelve: the last batch is smaller


def scalar(y_true: Any, y_pred: Any) -> Any:
    """One number for the batch, which leaves missing labels out itself."""
    there = ops.logical_not(ops.isnan(y_true))
    total = ops.sum(ops.where(there, ops.abs(y_true - y_pred), 0.0))
    return total / ops.maximum(ops.sum(ops.cast(there, y_pred.dtype)), 1)


def run(metrics: Any, y: np.ndarray, p: np.ndarray, weight: Any = None, weighted: bool = False):
    """What `evaluate` reports of outputs that are the inputs, in two batches."""
    model = keras.Sequential([keras.Input(p.shape[1:]), keras.layers.Identity()])
    kind = "weighted_metrics" if weighted else "metrics"
    model.compile(loss=lambda y_true, y_pred: ops.sum(0.0 * y_pred), **{kind: metrics})
    options = {"batch_size": BATCH, "verbose": 0, "return_dict": True}
    found = model.evaluate(p, y, sample_weight=weight, **options)
    return {name: value for name, value in found.items() if name != "loss"}


def case(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    if kind == "binary":
        y, p = rng.integers(0, 2, (ROWS, 1)), rng.uniform(size=(ROWS, 1))
    elif kind == "sparse":
        y, p = rng.integers(0, 3, ROWS), rng.dirichlet([1] * 3, ROWS)
    elif kind == "categorical":
        y, p = np.eye(3)[rng.integers(0, 3, ROWS)], rng.dirichlet([1] * 3, ROWS)
    elif kind == "vector":
        y, p = rng.normal(size=ROWS), rng.normal(size=ROWS)
    else:
        y, p = rng.normal(size=(ROWS, 2)), rng.normal(size=(ROWS, 2))
    return y.astype("float32"), p.astype("float32")


CASES = {
    "binary": ["accuracy", "binary_accuracy", keras.metrics.AUC, keras.metrics.Precision],
    "sparse": ["acc", "sparse_categorical_accuracy", "sparse_categorical_crossentropy"],
    "categorical": ["accuracy", "cosine_similarity", "kl_divergence"],
    "regression": ["mse", "mae", keras.losses.mean_squared_error, keras.metrics.R2Score],
    "vector": ["mse", keras.metrics.RootMeanSquaredError],
}


def fresh(kind: str) -> list[Any]:
    return [item() if isinstance(item, type) else item for item in CASES[kind]]


def named(found: dict[str, Any]) -> dict[str, Any]:
    """Without the numbers that Keras appends to names."""
    return {name.rstrip("_0123456789"): value for name, value in found.items()}


@pytest.mark.parametrize("kind", CASES)
def test_missing_labels_are_as_if_the_sample_were_not_there(kind: str) -> None:
    y, p = case(kind)
    gone = np.zeros(ROWS, bool)
    gone[[0, 3, 4, 10]] = True
    holed = y.copy()
    holed[gone] = np.nan
    weight = np.linspace(0.5, 2, ROWS).astype("float32")
    shape = (-1, 1) if kind == "vector" else y.shape  # Keras averages batches of shape (N,) twice
    right = named(run(fresh(kind), y[~gone].reshape(-1, *shape[1:]), p[~gone]))
    found = named(run(of_labels(fresh(kind)), holed, p))
    assert list(found) == list(right)
    np.testing.assert_allclose(list(found.values()), list(right.values()), rtol=1e-5)
    if kind != "vector":
        right = run(fresh(kind), y[~gone], p[~gone], weight[~gone], weighted=True)
        found = run(of_labels(fresh(kind)), holed, p, weight, weighted=True)
        np.testing.assert_allclose(list(found.values()), list(right.values()), rtol=1e-5)


def test_single_numbers_are_left_out_where_a_function_takes_them_singly() -> None:
    y, p = case("regression")
    y[2, 0] = np.nan
    found = run(of_labels([keras.losses.mean_absolute_error, scalar]), y, p)
    error = np.abs(y - p)
    right = np.nanmean(error)
    np.testing.assert_allclose(found["mean_absolute_error"], right, rtol=1e-5)
    # One number for a batch counts as often as the batch has samples.
    batches = np.array([np.nanmean(error[:BATCH]), np.nanmean(error[BATCH:])])
    right = np.average(batches, weights=[BATCH, ROWS - BATCH])
    np.testing.assert_allclose(found["scalar"], right, rtol=1e-5)


def test_integer_targets_and_the_nest_are_those_given() -> None:
    y, p = case("sparse")
    metrics = ["accuracy", keras.metrics.sparse_categorical_crossentropy]
    assert run(of_labels(metrics), y.astype(int), p) == run(metrics, y.astype(int), p)
    nest = of_labels({"a": ["mse"], "b": None, "c": ("mae", "acc")})
    assert [type(nest[key]) for key in nest] == [list, type(None), tuple]
    assert [metric.name for metric in nest["c"]] == ["mae", "acc"]


def test_a_metric_given_is_the_one_that_is_updated() -> None:
    metric = keras.metrics.MeanSquaredError()
    wrapped = of_labels([metric])[0]
    wrapped.update_state(np.array([[1.0], [np.nan]]), np.zeros((2, 1)))
    assert float(metric.result()) == 1
    assert len(wrapped.variables) == 2
    wrapped.reset_state()
    assert float(metric.result()) == 0
