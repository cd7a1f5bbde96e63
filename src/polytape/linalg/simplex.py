"""Weights on the probability simplex."""

from keras import ops

from polytape.contract import Tensor


def softmax(logits: Tensor, active: Tensor) -> Tensor:
    """Softmax (..., T) over the active objectives; zero elsewhere, and if none is active.

    Unlike `keras.ops.softmax` it takes a mask, and is silent about a single objective.
    """
    largest = ops.max(ops.where(active, logits, -1e38), axis=-1, keepdims=True)
    # Compilers round `logits` anew where they fuse its computation with the difference, which for
    # huge ones is then anything but zero at the largest: hence compared first, and bounded.
    below = ops.logical_and(active, logits < largest)
    shifted = ops.where(below, ops.minimum(logits - largest, 0.0), 0.0)
    power = ops.where(active, ops.exp(shifted), 0.0)
    total = ops.sum(power, axis=-1, keepdims=True)
    return power / ops.where(total > 0, total, 1.0)
