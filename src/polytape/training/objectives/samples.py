"""The loss of single samples, and the residual of which it is the square."""

from typing import Any

from keras import ops

from polytape.contract import Tensor
from polytape.training.objectives.labels import Labelled, unreduced


def sample_losses(
    loss: Labelled,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    value: Tensor,
    count: int,
) -> Tensor:
    """The losses of the first `count` samples, (min(count, N),), masked and weighted as Keras does.

    Scaled such that their mean over all N samples is `value`, whatever reduction made it.

    ValueError if the loss is reduced before it is known by sample.
    """
    found = unreduced(loss, y_true, y_pred, sample_weight)
    if len(found.shape) == 0:
        raise ValueError(
            "This method compares the gradients of single samples, and a loss called "
            f"{loss.name!r} is one number for the whole batch. Return one for each sample, and "
            "leave the mean to Keras."
        )
    found, value = ops.cast(found, "float32"), ops.cast(value, "float32")
    if len(found.shape) > 1:
        found = ops.mean(found, axis=tuple(range(1, len(found.shape))))
    mean = ops.mean(found)
    factor = ops.where(mean != 0, value / ops.where(mean != 0, mean, 1.0), 1.0)
    return found[:count] * ops.stop_gradient(ops.cast(factor, "float32"))


def roots(losses: Tensor) -> Tensor:
    """Square roots of the sizes, with a zero gradient at zero."""
    size = ops.abs(losses)
    positive = size > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, size, 1.0)), 0.0)
