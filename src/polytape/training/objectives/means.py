"""The running means of all losses, in one variable."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine
from polytape.training.objectives.losses import Ledger


class Means:
    """Running means of T losses, a metric each.

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
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self.metrics = [_Mean(name, self, place) for place, name in enumerate(names)]
        first = self.metrics[0]
        shape, dtype = (2 * len(names),), first.dtype
        self._sums = first.add_variable(shape, "zeros", dtype=dtype, name="sums_and_counts")

    def add(self, values: Sequence[Tensor], weights: Sequence[Any]) -> None:
        """Add one value of each, (), with its weight."""
        dtype = self._sums.dtype
        known = {id(weight): ops.cast(weight, dtype) for weight in weights}  # one size for all
        counts = [known[id(weight)] for weight in weights]
        # Product by product: all at once, XLA would round otherwise than for Keras's means.
        products = [ops.cast(v, dtype) * c for v, c in zip(values, counts, strict=True)]
        self._sums.assign_add(engine().stack([*products, *counts]))

    def note(self, place: int, value: Tensor, weight: Any) -> None:
        """Take the values one by one, in order, and add them when the last has come.

        value   () as a rule; a loss of another shape is refused later, by its name
        weight  None, where Keras does not know the size of a batch beforehand, is 1
        """
        value = ops.mean(value) if len(value.shape) else value
        weight = 1 if weight is None else weight
        if (share := self._share()) is not None:
            weight = share * weight
        self._waiting = [*self._waiting[:place], (value, weight)]
        if len(self._waiting) == len(self.metrics):
            values, weights = zip(*self._waiting, strict=True)
            self._waiting = []
            self.add(values, weights)

    def result(self, place: int) -> Tensor:
        """The mean of one, (); 0 before the first value."""
        sums = self._sums.value
        return ops.divide_no_nan(sums[place], sums[len(self.metrics) + place])


class _Mean(keras.metrics.Metric):
    """One of them. The first has the variable."""

    def __init__(self, name: str, means: Means, place: int) -> None:
        super().__init__(name=name)
        self._means, self._place = means, place

    def update_state(self, value: Tensor, sample_weight: Any = 1) -> None:
        self._means.note(self._place, value, sample_weight)

    def result(self) -> Tensor:
        return self._means.result(self._place)


def share(model: Any, ledger: Ledger, y: Any, y_pred: Any, sample_weight: Any) -> None:
    """Give a compiled model such means of its losses, before its first step.

    A batch counts in the mean of a loss as far as it has labels.

    The one place that touches Keras's evaluation of losses from within. Upon its first call that
    makes a metric with two variables for each loss; where they are not of the kind known here, they
    stay.
    """
    evaluation = getattr(model, "_compile_loss", None)
    if evaluation is None or evaluation.built:
        return
    with keras.StatelessScope():  # what is computed here is thrown away
        evaluation(y, y_pred, sample_weight)
    found = evaluation.metrics
    if found and all(type(metric) is keras.metrics.Mean for metric in found):
        found[:] = Means([metric.name for metric in found], ledger.share).metrics
