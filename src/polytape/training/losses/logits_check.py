"""Losses of probabilities, and how often they get something else."""

import keras
from keras import ops

from polytape.contract.types import Anything, Nest, Numbers
from polytape.engines import engine

LOSSES = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)
_SLACK = 1e-3  # more than rounding takes a softmax outside


def of_probabilities(loss: keras.losses.Loss) -> bool:
    """Whether a loss takes outputs for probabilities, not for logits.

    >>> of_probabilities(keras.losses.CategoricalCrossentropy())
    True
    >>> of_probabilities(keras.losses.CategoricalCrossentropy(from_logits=True))
    False
    """
    known = getattr(loss, "fn", None) in LOSSES
    return known and not loss.get_config().get("from_logits", False)


def of_logits(loss: keras.losses.Loss) -> bool:
    """Whether a loss takes outputs for logits, not for probabilities."""
    known = getattr(loss, "fn", None) in LOSSES
    return known and bool(loss.get_config().get("from_logits", False))


def outside(y_pred: Numbers) -> int:
    """How many numbers are no probabilities."""
    return int(((y_pred < -_SLACK) | (y_pred > 1 + _SLACK)).sum())


class LogitsCheck(keras.metrics.Metric):
    """How many outputs that a loss takes for probabilities are none, since the epoch began.

    outside, seen  () float32: numbers, and how many of them are below 0 or above 1
    still, fed     () float32: samples, and how many of them this leaves without any gradient
    """

    def __init__(self, objective: str, loss: keras.losses.Loss) -> None:
        super().__init__(name=f"{objective}_improbable")
        self._objective, self._loss = objective, loss
        for name in ("outside", "seen", "still", "fed"):
            setattr(self, name, self.add_variable(shape=(), initializer="zeros", name=name))

    def update_state(self, y_true: Nest, y_pred: Nest) -> None:
        outside = ops.logical_or(y_pred < -_SLACK, y_pred > 1 + _SLACK)
        still = ops.cond(
            ops.any(outside), lambda: self._still(y_true, y_pred), lambda: ops.zeros((), "float32")
        )
        self.outside.assign_add(ops.sum(ops.cast(outside, "float32")))
        self.seen.assign_add(ops.cast(ops.size(y_pred), "float32"))
        self.still.assign_add(still)
        self.fed.assign_add(ops.cast(ops.shape(y_pred)[0], "float32"))

    def _still(self, y_true: Nest, y_pred: Nest) -> Anything:
        """() float32: samples whose output has no gradient."""

        def loss(outputs: list[Anything]) -> Anything:
            return ops.sum(self._loss(y_true, outputs[0]))

        (gradient,) = engine().derivative(loss, [y_pred])
        zero = ops.reshape(ops.equal(gradient, 0), (ops.shape(y_pred)[0], -1))
        return ops.sum(ops.cast(ops.all(zero, axis=-1), "float32"))

    def result(self) -> dict[str, Anything]:
        return {}  # told at the end of an epoch, and only if there is something to tell

    def describe(self) -> str:
        """What is wrong, as text; empty if every output was between 0 and 1."""
        counted = self.outside, self.seen, self.still, self.fed
        outside, seen, still, fed = (int(v.numpy()) for v in counted)
        if not outside:
            return ""
        return (
            f"Objective {self._objective!r}: {self._loss.name} takes its output for probabilities, "
            f"and {outside} of {seen} numbers were below 0 or above 1. Keras clips those, and what "
            f"is clipped has no gradient: {still} of {fed} samples had none at all. If the output "
            "is logits, give the loss as an object with from_logits=True; else end the network in "
            "a softmax or sigmoid."
        )
