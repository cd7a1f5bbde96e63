"""Metrics of what is labelled: those given to `compile`, kept from targets that are NaN."""

from typing import Any

import keras

from polytape.contract import Tensor
from polytape.training.objectives.labels import hide, known, masked
from polytape.training.objectives.losses import resolve_loss


def of_labels(metrics: Any) -> Any:
    """The same nest of metrics as `keras.Model.compile` takes, each of labelled samples only.

    A function of (y_true, y_pred) is averaged over the labels there are, number by number where it
    does so, and a metric object is given sample weights of 0 where a label is missing. Integer
    targets have all their labels.

    >>> [metric.name for metric in of_labels(["mae", keras.metrics.AUC(name="auc")])]
    ['mae', 'auc']
    """
    if metrics is None:
        return None
    if isinstance(metrics, dict):
        return {key: of_labels(item) for key, item in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return type(metrics)(of_labels(item) for item in metrics)
    chosen_by_shape = isinstance(metrics, str) and metrics.lower() in ("accuracy", "acc")
    found = accuracy if chosen_by_shape else keras.metrics.get(metrics)
    wrapper = _Labelled if isinstance(found, keras.metrics.Metric) else _LabelledMean
    name = getattr(found, "name", getattr(found, "__name__", "metric"))
    labelled = wrapper(found, metrics if isinstance(metrics, str) else str(name))
    better = "up" if found is accuracy else getattr(found, "_direction", None)
    if better is not None:  # Keras's callbacks look for it, to know which value is the best
        labelled._direction = better
    return labelled


def names_of_results(model: Any) -> list[str]:
    """The names of the values that `evaluate` returns as a list, in that order.

    Before the first batch metrics that Keras has not built are missing.
    """
    metrics = [metric for metric in model.metrics if getattr(metric, "built", True)]
    first, results = [], {}
    for metric in metrics:
        found = metric.result()
        results.update(found if isinstance(found, dict) else {metric.name: found})
        compiled = metric is model._compile_metrics
        first += [each.name for each in (metric.metrics if compiled else [metric])]
    # As Keras flattens a dict of results: those under the name of a metric, then the others.
    listed = [name for name in first if name in results]
    return [*listed, *sorted({*results} - {*listed})]


class _Labelled(keras.metrics.Metric):
    """Another metric, of labelled samples only."""

    def __init__(self, metric: keras.metrics.Metric, name: str) -> None:
        super().__init__(name=name, dtype=metric.dtype)
        self._metric = metric

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, sample_weight = hide(y_true, y_pred, sample_weight)
        self._metric.update_state(y_true, y_pred, sample_weight=sample_weight)

    def result(self) -> Any:
        return self._metric.result()

    def reset_state(self) -> None:
        self._metric.reset_state()


class _LabelledMean(keras.metrics.MeanMetricWrapper):
    """The mean of a function of targets and outputs over the labels there are."""

    def __init__(self, function: Any, name: str) -> None:
        super().__init__(function, name=name)
        self._as_loss = resolve_loss(function)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if sample_weight is None and known(y_true, y_pred) is not None:
            value, count = masked(self._as_loss, y_true, y_pred)
            keras.metrics.Mean.update_state(self, value, sample_weight=count)
        else:
            y_true, sample_weight = hide(y_true, y_pred, sample_weight)
            super().update_state(y_true, y_pred, sample_weight)


def accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Binary, sparse or categorical, as the shapes say to Keras."""
    if y_pred.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)
