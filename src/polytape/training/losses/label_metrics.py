"""Metrics of what is labelled: those given to `compile`, kept from targets that are NaN."""

from collections.abc import Callable

import keras

from polytape.contract import Tensor
from polytape.contract.types import Anything, Function, Nest
from polytape.training.losses.keras_losses import Path, resolve_loss
from polytape.training.losses.masks import mask_of
from polytape.training.losses.missing_labels import (
    Holes,
    by_sample,
    hide,
    hide_numbers,
    known,
    masked,
)

Ignored = Callable[[Path], int | None]  # the class that the loss of an output ignores


def of_labels(
    metrics: Anything,
    holes: Holes | None = None,
    ignored: Ignored | None = None,
    path: Path = (),
) -> Anything:
    """The same nest of metrics as `keras.Model.compile` takes, each of labelled samples only.

    holes    whether float targets may be NaN; None: they may
    ignored  of the path of an output: the class that its loss ignores (`ignore_class`), if it does.
             Such a class is no label for its metrics, either
    path     where the nest hangs

    Errors, hinges and binary metrics leave out single numbers, as losses do. Any other function of
    (y_true, y_pred) is averaged over the samples, time steps or pixels whose labels are whole, and
    any other metric object is given sample weights of 0 elsewhere. Where no label can be missing
    they are Keras's own.

    >>> [metric.name for metric in of_labels(["mae", keras.metrics.AUC(name="auc")])]
    ['mae', 'auc']
    """
    if metrics is None:
        return None
    if isinstance(metrics, dict):
        return {key: of_labels(item, holes, ignored, (*path, key)) for key, item in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return type(metrics)(
            of_labels(item, holes, ignored, (*path, place)) for place, item in enumerate(metrics)
        )
    chosen_by_shape = isinstance(metrics, str) and metrics.lower() in ("accuracy", "acc")
    found = accuracy if chosen_by_shape else keras.metrics.get(metrics)
    wrapper = _Labelled if isinstance(found, keras.metrics.Metric) else _LabelledMean
    name = getattr(found, "name", getattr(found, "__name__", "metric"))
    name = metrics if isinstance(metrics, str) else str(name)
    labelled = wrapper(found, name, holes or Holes(), ignored(path) if ignored else None)
    better = "up" if found is accuracy else getattr(found, "_direction", None)
    if better is not None:  # Keras's callbacks look for it, to know which value is the best
        labelled._direction = better
    return labelled


def names_of_results(model: keras.Model) -> list[str]:
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

    def __init__(
        self, metric: keras.metrics.Metric, name: str, holes: Holes, ignored: int | None
    ) -> None:
        super().__init__(name=name, dtype=metric.dtype)
        self._metric, self._holes, self._ignored = metric, holes, ignored

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> None:
        possible = self._holes.possible or self._ignored is not None
        if possible and known(y_true, y_pred, self._ignored) is not None:
            if _takes_numbers(self._metric) and self._ignored is None:
                heeds = isinstance(self._metric, keras.metrics.MeanMetricWrapper)
                mask = mask_of(y_pred) if heeds else None
                y_true, y_pred, sample_weight = hide_numbers(y_true, y_pred, sample_weight, mask)
            else:
                y_true, sample_weight = hide(y_true, y_pred, sample_weight, self._ignored)
        self._metric.update_state(y_true, y_pred, sample_weight=sample_weight)

    def result(self) -> Tensor:
        return self._metric.result()

    def reset_state(self) -> None:
        self._metric.reset_state()


class _LabelledMean(keras.metrics.MeanMetricWrapper):
    """The mean of a function of targets and outputs over the labels there are."""

    def __init__(self, function: Function, name: str, holes: Holes, ignored: int | None) -> None:
        super().__init__(function, name=name)
        self._as_loss = resolve_loss(function)
        self._holes, self._ignored = holes, ignored

    def update_state(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> None:
        possible = self._holes.possible or self._ignored is not None
        if not possible or known(y_true, y_pred, self._ignored) is None:
            super().update_state(y_true, y_pred, sample_weight)
            return
        found = by_sample(self._as_loss, y_true, y_pred, sample_weight, self._ignored)
        if found is None:  # one number for the whole batch
            found = masked(self._as_loss, y_true, y_pred)
        values, weights = found
        keras.metrics.Mean.update_state(self, values, sample_weight=weights)


_OF_NUMBERS = (
    keras.metrics.AUC,
    keras.metrics.BinaryAccuracy,
    keras.metrics.BinaryCrossentropy,
    keras.metrics.FalseNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.Hinge,
    keras.metrics.LogCoshError,
    keras.metrics.MeanAbsoluteError,
    keras.metrics.MeanAbsolutePercentageError,
    keras.metrics.MeanSquaredError,
    keras.metrics.MeanSquaredLogarithmicError,
    keras.metrics.Poisson,
    keras.metrics.Precision,
    keras.metrics.Recall,
    keras.metrics.RootMeanSquaredError,
    keras.metrics.SquaredHinge,
    keras.metrics.TrueNegatives,
    keras.metrics.TruePositives,
)


def _takes_numbers(metric: keras.metrics.Metric) -> bool:
    """Whether Keras's metric takes each number of the output by itself."""
    config = metric.get_config() if isinstance(metric, _OF_NUMBERS) else {"top_k": 1}
    asks = (config.get("multi_label"), config.get("class_id"), config.get("top_k"))
    return all(ask in (None, False) for ask in asks)


def accuracy(y_true: Nest, y_pred: Nest) -> Tensor:
    """Binary, sparse or categorical, as the shapes say to Keras."""
    if y_pred.shape[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)
