"""Weights on the probability simplex."""

from polytape.contract import Tensor, ops


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


def project(vector: Tensor, active: Tensor) -> Tensor:
    """The nearest point (..., T) of the simplex of the active objectives; zero elsewhere.

    Source: Held, Wolfe and Crowder, "Validation of subgradient optimization", 1974: after sorting,
    the entries that stay positive are the leading ones. No active objective: all zeros.

    >>> from keras import ops
    >>> w = project(ops.array([2.0, 1.5, 9.0]), ops.array([True, True, False]))
    >>> [float(v) for v in w]
    [0.75, 0.25, 0.0]
    """
    vector = ops.clip(vector, -1e38, 1e38)
    largest = ops.max(ops.where(active, vector, -1e38), axis=-1, keepdims=True)
    # Entries that are one or more below the largest become zero, however far below.
    below = ops.where(active, ops.maximum(vector - largest, -1.0), -1.0)
    descending = -ops.sort(-below, axis=-1)
    surplus = ops.cumsum(descending, axis=-1) - 1.0
    order = ops.arange(1, vector.shape[-1] + 1, dtype=vector.dtype)
    positive = ops.cast(order * descending > surplus, vector.dtype)
    last = ops.sum(positive, axis=-1, keepdims=True)
    level = ops.sum(ops.where(ops.equal(order, last), surplus, 0.0), axis=-1, keepdims=True) / last
    return ops.where(active, ops.maximum(below - level, 0.0), 0.0)


def restricted(weights: Tensor, active: Tensor) -> Tensor:
    """Weights (..., T) >= 0 in proportion on the simplex of the active objectives.

    Equal weights if the active ones had none; zero elsewhere.
    """
    kept = ops.where(active, weights, 0.0)
    total = ops.sum(kept, axis=-1, keepdims=True)
    ones = ops.cast(active, weights.dtype)
    kept = ops.where(total > 0, kept, ones)
    total = ops.where(total > 0, total, ops.maximum(ops.sum(ones, axis=-1, keepdims=True), 1.0))
    return kept / total


def carried(weights: Tensor, share: Tensor, active: Tensor) -> Tensor:
    """Weights (..., T) on the simplex with what the active ones had dealt out anew by `share`.

    An inactive objective keeps its weight. The inverse of `restricted` if nothing has changed.
    """
    held = ops.sum(ops.where(active, weights, 0.0), axis=-1, keepdims=True)
    return ops.where(active, held * share, weights)
