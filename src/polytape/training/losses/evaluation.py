"""What losses come to in one evaluation, handed to the step that asked for it."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Nest
from polytape.engines import engine
from polytape.evidence import Kind
from polytape.training.losses.missing_labels import Labelled, Labels, Terms, of_labelled, unreduced

Parts = Mapping[str, Sequence[Tensor]]  # {kind of evidence: what it had recorded of one objective}
T = TypeVar("T")


class Batch(NamedTuple):
    """What `fit` hands to a step, any nests of tensors; None where there is none."""

    inputs: Nest
    targets: Nest
    sample_weight: Nest

    def in_tensors(self) -> "Batch":
        """The same without arrays of numbers, which eager single batches bring as they were."""
        return Batch(*keras.tree.map_structure(_in_tensors, tuple(self)))


def _in_tensors(leaf: Nest) -> Nest:
    numbers = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"
    return ops.convert_to_tensor(leaf, dtype=str(leaf.dtype)) if numbers else leaf


@dataclass(frozen=True)
class LossValue:
    """One loss on one batch.

    value  () of the whole batch;  parts  what kinds of evidence want recorded beside it
    labels  those that it found; None if it is no loss with labels
    terms   what it is the sum of, if every example is an objective
    """

    value: Tensor
    parts: Parts
    labels: Labels | None
    terms: Terms | None = None


@dataclass(frozen=True)
class Comparison:
    """A loss between a target and an output on a batch: a `ComparedLoss` of evidence."""

    loss: Labelled
    targets: Nest
    outputs: Nest
    sample_weight: Nest
    value: Tensor

    @property
    def name(self) -> str:
        return self.loss.name

    def weighted(self, sample_weight: Tensor) -> Tensor:
        return self.loss(self.targets, self.outputs, sample_weight)

    def by_sample(self) -> Tensor:
        return unreduced(self.loss, self.targets, self.outputs, self.sample_weight)


def compare(
    loss: keras.losses.Loss,
    y_true: Nest,
    y_pred: Nest,
    sample_weight: Nest,
    kinds: Sequence[Kind],
    whole: bool = False,
) -> LossValue:
    """A loss on a batch, and what kinds of evidence want recorded of it.

    whole  whether it is known that no target is NaN
    """
    value, labels = of_labelled(loss, y_true, y_pred, sample_weight, whole)
    compared = Comparison(Labelled(loss, whole), y_true, y_pred, sample_weight, value)
    return LossValue(value, {kind.name: kind.record(compared) for kind in kinds}, labels)


class Call(NamedTuple):
    """A loss that was evaluated: of which objective, by place, and what it came to, unweighted."""

    objective: int
    value: Tensor
    parts: Parts


@dataclass(frozen=True)
class Evaluation:
    """The losses of T objectives, evaluated once.

    values   () each: what a method gets, and what is differentiated
    shares   () each: what is in the total loss
    parts    {kind of evidence: what it had recorded}, for each objective
    calls    the losses in the order in which they were evaluated
    present  (T,) bool: which objectives are active; None: all of them
    counts   () each, where a replica has a part of the batch: what a mean was divided by; None for
             a sum
    terms    of each objective, weighted, what its share is the sum of, if every example is one
    """

    values: Sequence[Tensor]
    shares: Sequence[Tensor]
    parts: Sequence[Parts]
    calls: Sequence[Call]
    present: Tensor | None
    counts: Sequence[Tensor | None] = ()
    terms: Sequence[Terms | None] = ()


class _Listening(threading.local, Generic[T]):
    """Those who listen in one thread, the innermost last, with the names that they listen for."""

    def __init__(self) -> None:
        self.stack: list[tuple[tuple[str, ...], list[T]]] = []


class Listener(Generic[T]):
    """Hands what it is told to the innermost who listens in the same thread.

    Replicas of TensorFlow are threads, which take turns in the middle of a forward pass.

    asked  the names that this one listens for
    """

    def __init__(self) -> None:
        self._listening: _Listening[T] = _Listening()

    @contextlib.contextmanager
    def listening(self, names: Sequence[str] = ()) -> Iterator[list[T]]:
        """A list that fills with what is told meanwhile."""
        heard: list[T] = []
        self._listening.stack.append((tuple(names), heard))
        try:
            yield heard
        finally:
            self._listening.stack.pop()

    @property
    def asked(self) -> tuple[str, ...]:
        """The names that are listened for; none if nobody listens."""
        return self._listening.stack[-1][0] if self._listening.stack else ()

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listening.stack)

    @property
    def last(self) -> T:
        """What was told last."""
        return self._listening.stack[-1][1][-1]

    def tell(self, item: T) -> None:
        if self._listening.stack:
            self._listening.stack[-1][1].append(item)


def cast(loss: LossValue) -> LossValue:
    """In Keras's float type."""
    kind = keras.config.floatx()
    parts = {name: [ops.cast(part, kind) for part in found] for name, found in loss.parts.items()}
    return LossValue(ops.cast(loss.value, kind), parts, loss.labels, loss.terms)


def divisors(labels: Sequence[Labels | None]) -> Sequence[Tensor | None]:
    """What mean losses were divided by, () each, where a replica has a part of the batch."""
    if engine().replica_count() == 1:
        return []
    return [None if each is None else each.divisor for each in labels]


def all_present(flags: Sequence[Tensor | None]) -> Tensor | None:
    """(T,) bool of T times () bool, None being true; None if all are."""
    if all(flag is None for flag in flags):
        return None
    return ops.stack([ops.ones((), "bool") if flag is None else flag for flag in flags])
