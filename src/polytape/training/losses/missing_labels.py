"""Missing labels: a target that is NaN counts neither in the loss, nor in its mean, nor in metrics.

Integer targets have no NaN and cost nothing. Everything is compiled with static shapes.
"""

from typing import NamedTuple

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.contract.cached import cached
from polytape.contract.types import Anything, LossLike, Nest
from polytape.training.losses.masks import mask_of

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


class Holes:
    """Whether targets may hold NaN: what `fit` and `evaluate` could tell before the step was made.

    Arrays are looked through beforehand. If no number is missing there, losses and metrics are
    Keras's own, and nothing is added to the step. A data set, a generator or a loop of one's own
    cannot be looked through: there float targets may miss labels, as they may ever after.
    """

    def __init__(self) -> None:
        self._whole: bool | None = None  # nobody has told yet

    @property
    def possible(self) -> bool:
        """Whether float targets may miss labels."""
        return not self._whole

    def expect(self, whole: bool) -> bool:
        """Note what the next targets are; whether a step made until now is wrong for them."""
        stale = bool(self._whole) and not whole
        self._whole = whole and self._whole is not False
        return stale


class Labels:
    """The labels that one loss finds in a batch.

    there   how many labels each sample, time step or pixel has, (N, ...) float32; None: all
    places  how many it could have, in the same shape
    holes   whether targets may be NaN; a class that the loss ignores is none of that
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        y_pred: Nest,
        sample_weight: Nest = None,
        there: Tensor | None = None,
        places: Tensor | None = None,
        holes: bool = False,
        count: Tensor | None = None,
    ) -> None:
        """count  where it is known already"""
        self._count = count
        self._loss, self._y_pred, self._sample_weight = loss, y_pred, sample_weight
        self._there, self._places, self.holes = there, places, holes

    @cached
    def count(self) -> Tensor:
        """() float32: the number of labels, 0 weights included and masked ones not."""
        if self._count is not None:
            return self._count
        if self._there is None:
            return _samples(self._loss, self._y_pred)
        return ops.sum(_weighted(self._loss, self._there, self._y_pred))

    @property
    def divisor(self) -> Tensor | None:
        """() float32: what their mean loss is divided by, up to a constant; None if it is a sum."""
        reduction = self._loss.reduction
        if reduction in ("sum", "none", None):
            return None
        weight = self._sample_weight if reduction == "mean_with_sample_weight" else None
        if weight is None or keras.tree.is_nested(self._y_pred):
            return self.count
        there = _ones(self._y_pred) if self._there is None else self._there
        return ops.sum(_weighted(self._loss, there, self._y_pred, weight))

    @property
    def share(self) -> Tensor | None:
        """() float32: of all that could be labels those that are not NaN; None: all of them."""
        if not self.holes:
            return None
        places = ops.sum(_weighted(self._loss, self._places, self._y_pred))
        return ops.divide_no_nan(self.count, places)

    @property
    def may_be_none(self) -> bool:
        """Whether a batch may come without any label that counts."""
        if self._there is not None or self._sample_weight is not None:
            return True
        return not keras.tree.is_nested(self._y_pred) and mask_of(self._y_pred) is not None

    @property
    def present(self) -> Tensor:
        """() bool: whether there is a label whose sample weight is not zero."""
        weight, y_pred = self._sample_weight, self._y_pred
        if weight is None or keras.tree.is_nested(y_pred):
            return self.count > 0
        there = _ones(y_pred) if self._there is None else self._there
        return ops.any(_weighted(self._loss, there, y_pred, weight) != 0)


def masked(
    loss: keras.losses.Loss, y_true: Nest, y_pred: Nest, sample_weight: Nest = None
) -> tuple[Tensor, Tensor]:
    """The loss of what is labelled, and how many labels that are.

    loss           its reduction stays: a mean is one over the labels there are, a sum is a sum
    y_true         float targets; NaN where the label is missing. Squared errors and the like,
                   binary cross-entropies and hinges leave out single numbers of the last axis; any
                   other loss leaves out the sample, time step or pixel with a NaN along that axis.
                   A class that the loss ignores (`ignore_class`) is no label, either
    y_pred         outputs, with the mask that Keras attached to them, if any
    sample_weight  as Keras takes it

    Returns the value, with the bits of `loss(y_true, y_pred, sample_weight)` if nothing is missing
    (op by op: XLA fuses, and may round otherwise) and 0 if everything is; and () float32, the
    number of labels, 0 weights included and masked ones not.

    A loss that is one number for the whole batch sees the NaN; only a batch without any label is
    kept from it.

    >>> import numpy as np
    >>> y_true, y_pred = np.array([[1.0], [np.nan], [3.0]]), np.zeros((3, 1))
    >>> value, count = masked(keras.losses.MeanSquaredError(), y_true, y_pred)
    >>> float(value), int(count)
    (5.0, 2)
    """
    value, labels = of_labelled(loss, y_true, y_pred, sample_weight)
    return value, labels.count


def of_labelled(
    loss: keras.losses.Loss,
    y_true: Nest,
    y_pred: Nest,
    sample_weight: Nest = None,
    whole: bool = False,
) -> tuple[Tensor, Labels]:
    """The loss of what is labelled, and the labels: see `masked`.

    whole  whether it is known that no target is NaN: then the value is Keras's own
    """
    value, labels = _of_labelled(loss, y_true, y_pred, sample_weight, whole)
    if loss.reduction not in ("none", None) and tuple(value.shape) == (0,):
        value = ops.sum(value)  # of a replica without samples, which Keras leaves as it is
    return value, labels


def _of_labelled(
    loss: keras.losses.Loss,
    y_true: Nest,
    y_pred: Nest,
    sample_weight: Nest = None,
    whole: bool = False,
) -> tuple[Tensor, Labels]:
    ignored = None if keras.tree.is_nested(y_pred) else getattr(loss, "ignore_class", None)
    holes = not (whole or keras.tree.is_nested(y_pred)) and _may_miss(y_true)
    if ignored is not None:  # Keras leaves such entries out itself
        y_true = _tensor(y_true)
        y_true = _replace(y_true, ops.isnan(y_true), ignored) if holes else y_true
        known_class = ops.cast(ops.not_equal(y_true, ignored), "float32")
        there = _of_rank(known_class, max(len(y_pred.shape) - 1, 1))
        found = Labels(loss, y_pred, sample_weight, there, ops.ones_like(there), holes)
        return loss(y_true, y_pred, sample_weight), found
    if not holes:
        return loss(y_true, y_pred, sample_weight), Labels(loss, y_pred, sample_weight)
    y_true, y_pred = _tensor(y_true), _tensor(y_pred)
    entries = _entries(loss, y_true, y_pred)
    if entries is None:
        return _whole(loss, y_true, y_pred, sample_weight)
    losses, there, places = entries
    value = _Reduced(losses, loss, loss.reduction, loss.dtype)(y_pred, y_pred, sample_weight)
    if loss.reduction in ("sum", "none", None):
        return value, Labels(loss, y_pred, sample_weight, there, places, holes=True)
    weight = sample_weight if loss.reduction == "mean_with_sample_weight" else None
    everything, labels = (
        ops.sum(_weighted(loss, numbers, y_pred, weight)) for numbers in (places, there)
    )
    # Keras divided as if everything were labelled. The quotient is exactly 1 where it is.
    share = ops.divide_no_nan(everything, labels)
    count = labels if weight is None else None
    found = Labels(loss, y_pred, sample_weight, there, places, holes=True, count=count)
    return ops.cast(ops.multiply(value, share), value.dtype), found


def by_sample(
    loss: keras.losses.Loss,
    y_true: Nest,
    y_pred: Nest,
    sample_weight: Nest = None,
    ignored: int | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Losses and weights whose weighted mean is the mean loss over the labels there are.

    ignored  a class that counts as no label

    Both are (N, ...), before a reduction; weights of 1 where nothing is missing, hidden by a mask
    or weighed. None if the loss is one number for the whole batch.
    """
    y_true, y_pred = _tensor(y_true), _tensor(y_pred)
    entries = _entries(loss, y_true, y_pred, ignored)
    if entries is None:
        return None
    losses, there, places = entries
    if len(losses.shape) == 0:  # of outputs (N,), of which Keras takes the mean beforehand
        weights = there if sample_weight is None else ops.mean(sample_weight) * there
        return ops.divide_no_nan(losses * places, there), weights
    weights = _weighted(loss, there / places, y_pred, sample_weight)
    return losses * ops.cast(ops.divide_no_nan(places, there), losses.dtype), weights


class Terms(NamedTuple):
    """What a loss is the sum of, sample by sample, or time step by time step.

    values   (N,), or (N, L) of L time steps
    counted  bool, in the same shape: whether there is a label whose sample weight is not zero
    """

    values: Tensor
    counted: Tensor


def terms_of(
    loss: keras.losses.Loss, y_true: Nest, y_pred: Nest, sample_weight: Nest, name: str, per: str
) -> Terms:
    """What adds up to the loss of what is labelled: see `masked`.

    per  "example" or "step";  name  of the objective, for errors
    """
    if keras.tree.is_nested(y_pred):
        raise ValueError(
            f"Objective {name!r} has per={per!r}, and compares several outputs at once. Bind it to "
            'one of them, with pt.Objective(..., output="name").'
        )
    y_true, y_pred = _tensor(y_true), _tensor(y_pred)
    entries = _entries(loss, y_true, y_pred, getattr(loss, "ignore_class", None))
    if entries is None or len(entries[0].shape) < 1 + (per == "step"):
        raise ValueError(
            f"Objective {name!r} has per={per!r}, and its loss {loss.name!r} of outputs of shape "
            f"{tuple(y_pred.shape)} does not come {per} by {per}. A loss of its own returns one "
            "number for each example, (N,), or for each of its time steps, (N, L); an output of "
            "shape (N,) becomes (N, 1)."
        )
    losses, there, places = entries
    values = _weighted(loss, losses, y_pred, sample_weight)
    if loss.reduction not in ("sum", "none", None):
        weight = sample_weight if loss.reduction == "mean_with_sample_weight" else None
        values = ops.divide_no_nan(values, ops.sum(_weighted(loss, there / places, y_pred, weight)))
    counted = _weighted(loss, there, y_pred, sample_weight) != 0
    rest = tuple(range(1 + (per == "step"), len(values.shape)))
    if rest:
        values, counted = ops.sum(values, axis=rest), ops.any(counted, axis=rest)
    return Terms(values, counted)


def known(y_true: Nest, y_pred: Nest, ignored: int | None = None) -> Tensor | None:
    """Where labels are whole: a boolean for every sample, time step or pixel; None for all.

    y_true   targets, (N, ..., K), or class indices, (N, ...) or (N, ..., 1)
    y_pred   outputs, (N, ..., K)
    ignored  a class that counts as no label

    The shape is that of most Keras losses before their reduction: (N, ...).

    >>> import numpy as np
    >>> [bool(row) for row in known(np.array([[1.0, np.nan], [0.0, 1.0]]), np.zeros((2, 2)))]
    [False, True]
    >>> known(np.array([1, 0]), np.zeros((2, 2)))
    """
    if keras.tree.is_nested(y_pred):
        return None
    missing = _missing(y_true, ignored)
    if missing is None:
        return None
    return ops.logical_not(_of_rank(missing, max(len(y_pred.shape) - 1, 1)))


def hide(
    y_true: Nest, y_pred: Nest, sample_weight: Nest = None, ignored: int | None = None
) -> tuple[Anything, Anything]:
    """Targets without NaN and sample weights without the samples that had one, for a metric.

    ignored  a class that counts as no label

    Returns the arguments as they are if nothing can be missing. The weights, (N, ..., 1), go with
    metrics of samples, (N, ...), and with those of single numbers, (N, ..., K). Targets and outputs
    of shape (N,) are samples to Keras's metrics if one of them is (N, 1): the targets become that.
    """
    whole = known(y_true, y_pred, ignored)
    if whole is None:
        return y_true, sample_weight
    weight = ops.cast(ops.expand_dims(whole, -1), "float32")
    if sample_weight is not None:
        given = _tensor(sample_weight)
        weight = weight * ops.cast(_of_rank(given, len(weight.shape)), "float32")
    y_true = _replace(_tensor(y_true), _missing(y_true, ignored), 0)
    return ops.expand_dims(y_true, -1) if len(y_pred.shape) == 1 else y_true, weight


def hide_numbers(
    y_true: Nest, y_pred: Nest, sample_weight: Nest, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `hide`, for metrics that take number by number: each is a sample of its own.

    mask  of the outputs, (N, ...), or None

    Returns targets and outputs, (M, 1), and weights, (M,), for the M numbers of the outputs.
    """
    y_true, y_pred = same_rank(_tensor(y_true), _tensor(y_pred))
    gone = ops.isnan(y_true)
    weight = ops.cast(ops.logical_not(gone), "float32")
    for given in (sample_weight, mask):
        if given is not None:
            weight = weight * ops.cast(_of_rank(_tensor(given), len(weight.shape)), "float32")
    y_true = _replace(y_true, gone, 0)
    return ops.reshape(y_true, (-1, 1)), ops.reshape(y_pred, (-1, 1)), ops.reshape(weight, (-1,))


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

    def __init__(
        self, losses: Tensor, loss: keras.losses.Loss, reduction: Anything, dtype: Anything
    ) -> None:
        super().__init__(name=loss.name, reduction=reduction, dtype=dtype)
        self._losses = losses

    def call(self, y_true: Nest, y_pred: Nest) -> Tensor:  # noqa: ARG002
        return self._losses


def _weighted(
    loss: keras.losses.Loss, numbers: Tensor, y_pred: Tensor, sample_weight: Nest = None
) -> Tensor:
    """Numbers times sample weights, without those that the mask of `y_pred` hides, float32."""
    if sample_weight is None and mask_of(y_pred) is None:
        return ops.cast(numbers, "float32")
    return _Reduced(numbers, loss, "none", "float32")(y_pred, y_pred, sample_weight)


def _entries(
    loss: keras.losses.Loss, y_true: Tensor, y_pred: Tensor, ignored: int | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Losses before their reduction, 0 where unlabelled; their labels; and places for labels.

    None if the loss is one number for the whole batch, or compares its samples.
    """
    elementwise = getattr(loss, "fn", None) in ELEMENTWISE and getattr(loss, "axis", -1) == -1
    if elementwise:
        y_true, y_pred = same_rank(y_true, y_pred)
        # One number for each sample is a sample as it is.
        elementwise = len(y_pred.shape) < 2 or y_pred.shape[-1] != 1 or y_true.shape[-1] != 1
    if elementwise:
        y_true, y_pred = ops.expand_dims(y_true, -1), ops.expand_dims(y_pred, -1)
    gone = _missing(y_true, ignored)
    if gone is None:
        gone = ops.zeros_like(y_true, dtype="bool")
    losses = unreduced(loss, _replace(y_true, gone, 0), y_pred)
    rank = len(losses.shape)
    if rank == 0 or getattr(loss, "fn", None) is keras.losses.circle:
        return None
    missing = _of_rank(gone, rank)
    losses = ops.where(missing, ops.zeros_like(losses), losses)
    if tuple(missing.shape) != tuple(losses.shape):
        missing = ops.broadcast_to(missing, ops.shape(losses))
    labels = ops.cast(ops.logical_not(missing), "float32")
    places = ops.ones_like(labels)
    if not elementwise:
        return losses, labels, places
    return ops.mean(losses, axis=-1), ops.sum(labels, axis=-1), ops.sum(places, axis=-1)


def unreduced(loss: LossLike, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> Tensor:
    """The loss before its reduction."""
    reduction, loss.reduction = loss.reduction, "none"  # Keras has no other way to ask once
    try:
        return loss(y_true, y_pred, sample_weight)
    finally:
        loss.reduction = reduction


def _whole(
    loss: keras.losses.Loss, y_true: Tensor, y_pred: Tensor, sample_weight: Nest
) -> tuple[Tensor, Labels]:
    """The loss of a whole batch, which sees what is missing; 0 if everything is."""
    gone = ops.isnan(y_true)
    some = ops.logical_not(ops.all(gone))
    value = loss(ops.where(some, y_true, _replace(y_true, gone, 0)), y_pred, sample_weight)
    places = _ones(y_pred)
    there = ops.cast(some, "float32") * places
    found = Labels(loss, y_pred, sample_weight, there, places, holes=True)
    return ops.where(some, value, ops.zeros_like(value)), found


def _may_miss(y_true: Nest) -> bool:
    dtype = getattr(y_true, "dtype", None)
    return dtype is not None and keras.backend.is_float_dtype(dtype)


def _missing(y_true: Nest, ignored: int | None = None) -> Tensor | None:
    """Where there is no label, a boolean for every number; None: all are there."""
    found = ops.isnan(_tensor(y_true)) if _may_miss(y_true) else None
    if ignored is None:
        return found
    of_class = ops.equal(_tensor(y_true), ignored)
    return of_class if found is None else ops.logical_or(found, of_class)


def _replace(y_true: Tensor, where: Tensor, number: int) -> Tensor:
    return ops.where(where, number, y_true)


def _of_rank(values: Tensor, rank: int) -> Tensor:
    """Trailing axes of ones added, or dropped: true where any is, of booleans."""
    while len(values.shape) > rank:
        values = ops.any(values, axis=-1)
    while len(values.shape) < rank:
        values = ops.expand_dims(values, -1)
    return values


def _samples(loss: keras.losses.Loss, y_pred: Nest) -> Tensor:
    """Samples, time steps or pixels of the outputs, without masked ones, () float32."""
    if keras.tree.is_nested(y_pred):
        return ops.cast(ops.shape(keras.tree.flatten(y_pred)[0])[0], "float32")
    y_pred = _tensor(y_pred)
    return ops.sum(_weighted(loss, _ones(y_pred), y_pred))


def _ones(y_pred: Tensor) -> Tensor:
    """A one for each sample, time step or pixel of the outputs, float32."""
    return ops.ones_like(y_pred if len(y_pred.shape) < 2 else y_pred[..., 0], dtype="float32")


def _tensor(value: Anything) -> Tensor:
    """The tensor itself if it is one: Keras attaches masks to it."""
    return value if ops.is_tensor(value) else ops.convert_to_tensor(value)


class Labelled:
    """A Keras loss of what is labelled, in the shape of a loss.

    whole  whether no target is NaN
    """

    def __init__(self, loss: keras.losses.Loss, whole: bool = False) -> None:
        self._loss, self._whole, self.name = loss, whole, loss.name

    @property
    def reduction(self) -> Anything:
        return self._loss.reduction

    @reduction.setter
    def reduction(self, reduction: Anything) -> None:
        self._loss.reduction = reduction

    def __call__(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> Tensor:
        return of_labelled(self._loss, y_true, y_pred, sample_weight, self._whole)[0]
