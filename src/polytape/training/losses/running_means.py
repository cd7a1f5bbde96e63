"""The running means of all losses, in one variable."""

import threading
from collections.abc import Callable, Sequence

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Nest
from polytape.differentiation.replicated import total
from polytape.engines import engine
from polytape.training.losses.keras_losses import KerasLosses

_NOTHING = 1e-30  # as a count: nothing beside one sample, and yet not zero


class _Waiting(threading.local):
    """Values of one evaluation, and their weights, in the thread of a replica."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []


class Means:
    """Running means of T losses, a metric each.

    In training a value that is not finite is left out; in validation it stays and is seen.

    Their sums share one variable: a compiled step on TensorFlow pays for every variable it is
    handed, and two for each of sixteen losses cost it more than their backward passes.
    """

    def __init__(
        self, names: Sequence[str], share: Callable[[], Tensor | None] = lambda: None
    ) -> None:
        """names  of the metrics

        share  of the batch, what the value that is being noted is a mean of, (); None: all of it
        """
        self._share = share
        self._waiting = _Waiting()
        self.training = True  # whether what comes next is of a step of training
        self.metrics = [_Mean(name, self, place) for place, name in enumerate(names)]
        first = self.metrics[0]
        shape, dtype = (2 * len(names),), first.dtype
        self._sums = first.add_variable(shape, "zeros", dtype=dtype, name="sums_and_counts")

    def add(self, values: Sequence[Tensor], weights: Sequence[Anything]) -> None:
        """Add one value of each, (), with its weight."""
        dtype = self._sums.dtype
        known = {id(weight): ops.cast(weight, dtype) for weight in weights}  # one size for all
        counts = [known[id(weight)] for weight in weights]
        # Product by product: all at once, XLA would round otherwise than for Keras's means.
        products = [ops.cast(v, dtype) * c for v, c in zip(values, counts, strict=True)]
        if not self.training:
            self._sums.assign_add(engine().stack([*products, *counts]))
            return
        sums, number = self._sums.value, len(products)
        sums = sums[:number], sums[number:]
        more = engine().stack(products), engine().stack(counts)
        fine = ops.isfinite(more[0])
        if replicas := engine().replica_count() - 1:  # it is left out of all, or of none
            fine = total(ops.cast(fine, "float32")) > replicas
        self._sums.assign(ops.concatenate(with_another(*sums, *more, fine)))

    def note(self, place: int, value: Tensor, weight: Anything) -> None:
        """Take the values one by one, in order, and add them when the last has come.

        value   () as a rule; a loss of another shape is refused later, by its name
        weight  None, where Keras does not know the size of a batch beforehand, is 1
        """
        value = ops.mean(value) if len(value.shape) else value
        weight = 1 if weight is None else weight
        if (share := self._share()) is not None:
            weight = share * weight
        self._waiting.pairs = [*self._waiting.pairs[:place], (value, weight)]
        if len(self._waiting.pairs) == len(self.metrics):
            values, weights = zip(*self._waiting.pairs, strict=True)
            self._waiting.pairs = []
            self.add(values, weights)

    def result(self, place: int) -> Tensor:
        """The mean of one, (); 0 before the first value."""
        sums = self._sums.value
        return ops.divide_no_nan(sums[place], sums[len(self.metrics) + place])


class _Mean(keras.metrics.Metric):
    """One of them. The first has the variable."""

    def __init__(self, name: str, means: Means, place: int) -> None:
        super().__init__(name=name)
        self.means, self._place = means, place

    def update_state(self, value: Tensor, sample_weight: Nest = 1) -> None:
        self.means.note(self._place, value, sample_weight)

    def result(self) -> Tensor:
        return self.means.result(self._place)


def with_another(
    total: Tensor, count: Tensor, product: Tensor, weight: Tensor, fine: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of values and weights, both (...), after one more; left out where it is not finite.

    product  the value times its weight;  fine  (...) bool: whether it is finite

    As long as nothing but such values has come, the total is NaN and the count next to zero: the
    mean is then NaN, and not zero as that of nothing is.
    """
    counts = ops.logical_and(fine, weight > 0)
    start = ops.where(ops.isnan(total), 0.0, total)
    kept = ops.where(ops.logical_or(fine, count > _NOTHING), total, float("nan"))
    total = ops.where(counts, start + product, kept)
    return total, ops.where(fine, count + weight, ops.maximum(count, _NOTHING))


def track(mean: keras.metrics.Mean, value: Tensor, weight: Tensor) -> None:
    """Add a value () to Keras's mean as it does itself, but leave it out if it is not finite."""
    dtype = mean.total.dtype
    value, weight = ops.cast(value, dtype), ops.cast(weight, dtype)
    sums = mean.total.value, mean.count.value
    # Asked of the value: a product with a second use XLA would round otherwise than Keras's.
    total, count = with_another(*sums, value * weight, weight, ops.isfinite(value))
    mean.total.assign(total)
    mean.count.assign(count)


def attend(model: keras.Model, training: bool) -> None:
    """Tell the means that a compiled model shares whether a step of training comes next."""
    evaluation = getattr(model, "_compile_loss", None)
    for metric in () if evaluation is None else evaluation.metrics[:1]:
        if isinstance(metric, _Mean):
            metric.means.training = training


def share(
    model: keras.Model, losses: KerasLosses, y: Nest, y_pred: Nest, sample_weight: Nest
) -> None:
    """Give a compiled model such means of its losses, before its first step.

    A batch counts in the mean of a loss as far as it has labels.

    The one place that touches Keras's evaluation of losses from within. Upon its first call that
    makes a metric with two variables for each loss; where they are not of the kind known here, they
    stay.
    """
    evaluation = getattr(model, "_compile_loss", None)
    if evaluation is None or evaluation.built:
        return
    with losses.thrown_away(), keras.StatelessScope():
        evaluation(y, y_pred, sample_weight)
    found = evaluation.metrics
    if found and all(type(metric) is keras.metrics.Mean for metric in found):
        found[:] = Means([metric.name for metric in found], losses.share).metrics
