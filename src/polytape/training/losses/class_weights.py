"""Sample weights that follow from the class of the target."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Nest
from polytape.training.losses.missing_labels import ELEMENTWISE


def check_class_weight(objective: str, given: Anything, of_step: bool) -> dict[int, float] | None:
    """The weights by class number, as Python numbers.

    Raises TypeError or ValueError if it is no dict of class numbers and finite weights, not below
    zero; or if the loss, a function of the step, has no classes.
    """
    if given is None:
        return None
    if of_step:
        raise ValueError(
            f"Objective {objective!r}: `class_weight` weighs the entries of a Keras loss by the "
            "class of their target. A function of the step weighs them itself."
        )
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            f"Objective {objective!r}: `class_weight` is a dict of class numbers and weights, "
            f"{{0: 1.0, 1: 5.0}}. Received: {given!r} of type {type(given).__name__}."
        )
    found = {}
    for number, weight in given.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
            raise ValueError(
                f"Objective {objective!r}: `class_weight` is by class number, from 0. "
                f"Received: {number!r} of type {type(number).__name__}."
            )
        numeric = isinstance(weight, (int, float, np.integer, np.floating))
        if isinstance(weight, bool) or not numeric or not 0 <= weight < np.inf:
            raise ValueError(
                f"Objective {objective!r}: class_weight[{number}] must be a finite number, not "
                f"below zero. Received: {weight!r} of type {type(weight).__name__}."
            )
        found[int(number)] = float(weight)
    return found


def of_classes(
    objective: str,
    weights: Mapping[int, float],
    loss: keras.losses.Loss,
    y_true: Nest,
    y_pred: Nest,
) -> Tensor:
    """The weight of each sample, time step or pixel, (N, ...) float32; 1 for classes without one.

    weights  by class number
    y_true   class numbers, (N, ...) or (N, ..., 1), or one-hot, (N, ..., K); NaN weighs something
    y_pred   outputs, (N, ..., K), or one number each, (N,) or (N, ..., 1): 0 or 1 is the class then

    Raises ValueError if the loss is of K numbers that are each a label of their own.
    """
    y_true = ops.convert_to_tensor(y_true)
    rank, classes = len(y_pred.shape), y_pred.shape[-1] if len(y_pred.shape) > 1 else 1
    if classes != 1 and getattr(loss, "fn", None) in ELEMENTWISE:
        raise ValueError(
            f"Objective {objective!r}: `class_weight` is for one class per sample, and "
            f"{loss.name} takes each of the {classes} numbers of the output as a label of its own. "
            "Use sample_weight, an objective per number, or a loss function that weighs them."
        )
    if classes != 1 and len(y_true.shape) == rank and y_true.shape[-1] == classes:
        numbers = ops.argmax(y_true, axis=-1)
    else:
        last = len(y_true.shape) > 1 and len(y_true.shape) == rank and y_true.shape[-1] == 1
        found = ops.squeeze(y_true, axis=-1) if last else y_true
        if keras.backend.is_float_dtype(found.dtype):
            found = ops.round(ops.where(ops.isnan(found), ops.zeros_like(found), found))
        numbers = found
    beyond = max(weights) + 1  # and all above it, and classes below zero
    table = np.array([weights.get(number, 1.0) for number in range(beyond + 1)], "float32")
    numbers = ops.cast(numbers, "int32")
    numbers = ops.where(numbers < 0, beyond, ops.minimum(numbers, beyond))
    return ops.take(ops.convert_to_tensor(table), numbers, axis=0)


def times(first: Tensor, second: Anything) -> Tensor:
    """Weights (N, ...) times sample weights of as many axes, of fewer, or of a last one of 1."""
    second = ops.cast(ops.convert_to_tensor(second), first.dtype)
    if len(second.shape) == len(first.shape) + 1 and second.shape[-1] == 1:
        second = ops.squeeze(second, axis=-1)
    while len(second.shape) < len(first.shape):
        second = ops.expand_dims(second, -1)
    return first * second
