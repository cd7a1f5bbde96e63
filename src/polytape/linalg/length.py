"""The length of an update, read off the Gramian."""

from polytape.contract import Tensor, ops


def length_of(gramian: Tensor, weights: Tensor) -> Tensor:
    """Norm (..., 1) of the update J' w for G = J J' (..., T, T) and weights (..., T).

    In units of the longest part, so that its square does not leave float32.

    >>> from keras import ops
    >>> length = length_of(ops.array([[1.0, 0.0], [0.0, 1.0]]), ops.array([3e25, 4e25]))
    >>> round(float(length[0]) / 1e25, 4)
    5.0
    """
    norms = ops.sqrt(ops.maximum(ops.diagonal(gramian, axis1=-2, axis2=-1), 0.0))
    unit = ops.max(ops.abs(weights) * norms, axis=-1, keepdims=True)
    unit = ops.where(unit > 0, unit, 1.0)
    share = weights / unit
    square = ops.sum(share[..., :, None] * gramian * share[..., None, :], axis=(-2, -1))
    return unit * ops.sqrt(ops.maximum(square, 0.0))[..., None]
