"""Missing labels: a target that is NaN counts neither in the loss, nor in its mean, nor in metrics.

Integer targets have no NaN and cost nothing. Everything is compiled with static shapes.
"""

from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor

ELEMENTWISE = (  # Keras takes these number by number, then the mean over the last axis
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.hinge,
    keras.losses.huber,
    keras.losses.log_cosh,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.poisson,
    keras.losses.squared_hinge,
)


def masked(
    loss: keras.losses.Loss, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> tuple[Tensor, Tensor]:
    """The loss of what is labelled, and how many labels that are.

    loss           its reduction stays: a mean is one over the labels there are, a sum is a sum
    y_true         float targets; NaN where the label is missing. Squared errors and the like,
                   binary cross-entropies and hinges leave out single numbers of the last axis; any
                   other loss leaves out the sample, time step or pixel with a NaN along that axis
    y_pred         outputs, with the mask that Keras attached to them, if any
    sample_weight  as Keras takes it

    Returns the value, with the bits of `loss(y_true, y_pred, sample_weight)` if nothing is missing
    and 0 if everything is; and () float32, the number of labels, 0 weights included and masked
    ones not.

    A loss that is one number for the whole batch sees the NaN; only a batch without any label is
    kept from it.

    >>> import numpy as np
    >>> y_true, y_pred = np.array([[1.0], [np.nan], [3.0]]), np.zeros((3, 1))
    >>> value, count = masked(keras.losses.MeanSquaredError(), y_true, y_pred)
    >>> float(value), int(count)
    (5.0, 2)
    """
    if keras.tree.is_nested(y_pred) or not _may_miss(y_true):
        return loss(y_true, y_pred, sample_weight), _samples(loss, y_pred)
    y_true, y_pred = _tensor(y_true), _tensor(y_pred)
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:  # Keras leaves such entries out itself
        y_true = _replace(y_true, ignored)
        labels = ops.cast(ops.not_equal(y_true, ignored), "float32")
        return loss(y_true, y_pred, sample_weight), ops.sum(_weighted(loss, labels, y_pred))
    entries = _entries(loss, y_true, y_pred)
    if entries is None:
        return _whole(loss, y_true, y_pred, sample_weight)
    losses, labels, places = entries
    value = _Reduced(losses, loss, loss.reduction, loss.dtype)(y_pred, y_pred, sample_weight)
    count = ops.sum(_weighted(loss, labels, y_pred))
    if loss.reduction in ("sum", "none", None):
        return value, count
    weight = sample_weight if loss.reduction == "mean_with_sample_weight" else None
    everything, labelled = (
        ops.sum(_weighted(loss, numbers, y_pred, weight)) for numbers in (places, labels)
    )
    # Keras divided as if everything were labelled. The quotient is exactly 1 where it is.
    share = ops.divide_no_nan(everything, labelled)
    return ops.cast(ops.multiply(value, share), value.dtype), count


def known(y_true: Any, y_pred: Any) -> Tensor | None:
    """Where labels are whole: a boolean for every sample, time step or pixel; None for all.

    y_true  targets, (N, ..., K), or class indices, (N, ...) or (N, ..., 1)
    y_pred  outputs, (N, ..., K)

    The shape is that of most Keras losses before their reduction: (N, ...).

    >>> import numpy as np
    >>> [bool(row) for row in known(np.array([[1.0, np.nan], [0.0, 1.0]]), np.zeros((2, 2)))]
    [False, True]
    >>> known(np.array([1, 0]), np.zeros((2, 2)))
    """
    if keras.tree.is_nested(y_pred) or not _may_miss(y_true):
        return None
    missing = ops.isnan(_tensor(y_true))
    return ops.logical_not(_of_rank(missing, max(len(y_pred.shape) - 1, 1)))


def hide(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any]:
    """Targets without NaN and sample weights without the samples that had one, for a metric.

    Returns the arguments as they are if nothing can be missing. The weights, (N, ..., 1), go with
    metrics of samples, (N, ...), and with those of single numbers, (N, ..., K). Targets and outputs
    of shape (N,) are samples to Keras's metrics if one of them is (N, 1): the targets become that.
    """
    whole = known(y_true, y_pred)
    if whole is None:
        return y_true, sample_weight
    weight = ops.cast(ops.expand_dims(whole, -1), "float32")
    if sample_weight is not None:
        given = _tensor(sample_weight)
        weight = weight * ops.cast(_of_rank(given, len(weight.shape)), "float32")
    y_true = _replace(_tensor(y_true), 0)
    return ops.expand_dims(y_true, -1) if len(y_pred.shape) == 1 else y_true, weight


def same_rank(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """A trailing axis of one added or dropped where the ranks differ by one."""
    swap = len(first.shape) < len(second.shape)
    longer, shorter = (second, first) if swap else (first, second)
    if len(longer.shape) == len(shorter.shape) + 1 and longer.shape[-1] == 1:
        if len(shorter.shape) == 1:
            shorter = ops.expand_dims(shorter, axis=-1)
        else:
            longer = ops.squeeze(longer, axis=-1)
    return (shorter, longer) if swap else (longer, shorter)


class _Reduced(keras.losses.Loss):
    """Losses known already, given the masks, weights and reduction that Keras gives them."""

    def __init__(self, losses: Tensor, loss: keras.losses.Loss, reduction: Any, dtype: Any) -> None:
        super().__init__(name=loss.name, reduction=reduction, dtype=dtype)
        self._losses = losses

    def call(self, y_true: Any, y_pred: Any) -> Tensor:  # noqa: ARG002
        return self._losses


def _weighted(
    loss: keras.losses.Loss, numbers: Tensor, y_pred: Tensor, sample_weight: Any = None
) -> Tensor:
    """Numbers times sample weights, without those that the mask of `y_pred` hides, float32."""
    return _Reduced(numbers, loss, "none", "float32")(y_pred, y_pred, sample_weight)


def _entries(
    loss: keras.losses.Loss, y_true: Tensor, y_pred: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Losses before their reduction, 0 where unlabelled; their labels; and places for labels.

    None if the loss is one number for the whole batch, or compares its samples.
    """
    elementwise = getattr(loss, "fn", None) in ELEMENTWISE and getattr(loss, "axis", -1) == -1
    if elementwise:
        y_true, y_pred = (ops.expand_dims(y, -1) for y in same_rank(y_true, y_pred))
    losses = unreduced(loss, _replace(y_true, 0), y_pred)
    rank = len(losses.shape)
    if rank == 0 or getattr(loss, "fn", None) is keras.losses.circle:
        return None
    missing = _of_rank(ops.isnan(y_true), rank)
    losses = ops.where(missing, ops.zeros_like(losses), losses)
    missing = ops.broadcast_to(missing, ops.shape(losses))
    labels = ops.cast(ops.logical_not(missing), "float32")
    places = ops.ones_like(labels)
    if not elementwise:
        return losses, labels, places
    return ops.mean(losses, axis=-1), ops.sum(labels, axis=-1), ops.sum(places, axis=-1)


def unreduced(loss: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
    """The loss before its reduction."""
    reduction, loss.reduction = loss.reduction, "none"  # Keras has no other way to ask once
    try:
        return loss(y_true, y_pred, sample_weight)
    finally:
        loss.reduction = reduction


def _whole(
    loss: keras.losses.Loss, y_true: Tensor, y_pred: Tensor, sample_weight: Any
) -> tuple[Tensor, Tensor]:
    """The loss of a whole batch, which sees what is missing; 0 if everything is."""
    some = ops.logical_not(ops.all(ops.isnan(y_true)))
    value = loss(ops.where(some, y_true, _replace(y_true, 0)), y_pred, sample_weight)
    count = ops.cast(some, "float32") * _samples(loss, y_pred)
    return ops.where(some, value, ops.zeros_like(value)), count


def _may_miss(y_true: Any) -> bool:
    dtype = getattr(y_true, "dtype", None)
    return dtype is not None and keras.backend.is_float_dtype(dtype)


def _replace(y_true: Tensor, number: float) -> Tensor:
    return ops.where(ops.isnan(y_true), ops.full_like(y_true, number), y_true)


def _of_rank(values: Tensor, rank: int) -> Tensor:
    """Trailing axes of ones added, or dropped: true where any is, of booleans."""
    while len(values.shape) > rank:
        values = ops.any(values, axis=-1)
    while len(values.shape) < rank:
        values = ops.expand_dims(values, -1)
    return values


def _samples(loss: keras.losses.Loss, y_pred: Any) -> Tensor:
    """Samples, time steps or pixels of the outputs, without masked ones, () float32."""
    if keras.tree.is_nested(y_pred):
        return ops.cast(ops.shape(keras.tree.flatten(y_pred)[0])[0], "float32")
    y_pred = _tensor(y_pred)
    ones = ops.ones_like(y_pred if len(y_pred.shape) < 2 else y_pred[..., 0], dtype="float32")
    return ops.sum(_weighted(loss, ones, y_pred))


def _tensor(value: Any) -> Tensor:
    """The tensor itself if it is one: Keras attaches masks to it."""
    return value if ops.is_tensor(value) else ops.convert_to_tensor(value)


class Labelled:
    """A Keras loss of what is labelled, in the shape of a loss; `count` of its first evaluation."""

    def __init__(self, loss: keras.losses.Loss) -> None:
        self._loss, self.name, self.count = loss, loss.name, None

    @property
    def reduction(self) -> Any:
        return self._loss.reduction

    @reduction.setter
    def reduction(self, reduction: Any) -> None:
        self._loss.reduction = reduction

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        value, count = masked(self._loss, y_true, y_pred, sample_weight)
        self.count = count if self.count is None else self.count
        return value
