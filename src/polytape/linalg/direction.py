"""Direction, length and perpendicular parts of vectors of losses."""

from polytape.contract import Tensor, ops
from polytape.linalg.spectral import EPSILON


def polar(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector (..., T) and length (..., 1) of vectors of any size; zeros for a zero vector."""
    unit = ops.max(ops.abs(vector), axis=-1, keepdims=True)
    unit = ops.where(unit > 0, unit, 1.0)
    scaled = vector / unit
    length = ops.sqrt(ops.sum(ops.square(scaled), axis=-1, keepdims=True))
    return scaled / ops.where(length > 0, length, 1.0), length * unit


def across(vector: Tensor, axis: Tensor) -> Tensor:
    """What a unit vector (..., T) has perpendicular to another one; zero if that is rounding."""
    rest = vector - ops.sum(vector * axis, axis=-1, keepdims=True) * axis
    visible = ops.max(ops.abs(rest), axis=-1, keepdims=True) > 8 * EPSILON
    return ops.where(visible, rest, 0.0)
