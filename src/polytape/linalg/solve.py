"""Small symmetric positive definite systems, many at once."""

import keras
import numpy as np

from polytape.contract import Tensor, ops

# The smallest pivot elimination divides by, for matrices with a diagonal of about one. Rounding may
# make the last pivots of a nearly singular matrix negative; a factorisation would then fail.
_PIVOT = 1e-7

# Largest system that a compiled loop solves faster than the library routine (measured on CPU).
# Eager backends pay for every operation and always call the library.
_LOOP_UP_TO = {"jax": 8, "tensorflow": 64}


def ridge(size: int) -> float:
    """The multiple of the identity that covers the rounding of a unit-diagonal float32 Gramian."""
    return 1e-6 * max(1.0, size / 16)


def with_ridge(matrix: Tensor) -> Tensor:
    """The matrix (..., T, T), of unit diagonal, plus a multiple of the identity; positive definite.

    The multiple is `ridge(T)` for a Gramian that is exact up to float32 rounding. One summed with
    less precision may have clearly negative eigenvalues, along which every solver would run away:
    then it is the first of 32, 32^2, 32^3, 32^4 times as much for which all pivots are positive.
    """
    if ops.eager():
        return _with_known_ridge(matrix)
    size = matrix.shape[-1]
    identity = ops.eye(size, dtype=matrix.dtype)

    def attempt(added: Tensor, low: Tensor, trial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        added = ops.where(low, 32.0 * added, added)
        least = least_pivot(matrix + added[..., None, None] * identity)
        return added, ops.logical_not(least > 0.25 * added), trial + 1

    def going(_added: Tensor, low: Tensor, trial: Tensor) -> Tensor:
        return ops.logical_and(ops.any(low), trial < 5)

    added = ops.full_like(matrix[..., 0, 0], ridge(size) / 32.0)
    start = added, ops.ones_like(added, dtype="bool"), ops.zeros((), dtype="int32")
    added = ops.while_loop(going, attempt, start)[0]
    return matrix + added[..., None, None] * identity


def _with_known_ridge(matrix: Tensor) -> Tensor:
    """The same from the least eigenvalue, which is what pivots stand for."""
    size = matrix.shape[-1]
    double = matrix.astype("float64")
    least = np.linalg.eigvalsh(np.where(np.isfinite(double), double, 0.0))[..., 0]
    added = np.float32(ridge(size))
    if not (least > -0.75 * added).all():
        levels = added * np.float32(32.0) ** np.arange(5, dtype="float32")
        enough = least[..., None] > -0.75 * levels
        enough[..., -1] = True
        added = levels[np.argmax(enough, axis=-1)][..., None, None]
    return matrix + added * ops.eye(size, dtype=matrix.dtype)


def least_pivot(matrix: Tensor) -> Tensor:
    """The smallest pivot (...) of elimination in matrices (..., T, T) of unit diagonal.

    About the smallest eigenvalue, or more than that by a factor of up to some T.
    """

    def eliminate(_: Tensor, loop: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rest, least = loop
        pivot, row = rest[..., 0, 0], rest[..., 0, 1:]
        factor = row / ops.maximum(pivot, _PIVOT)[..., None]
        rest = rest[..., 1:, 1:] - factor[..., :, None] * row[..., None, :]
        return _padded(rest, 1, 1), ops.minimum(least, pivot)

    start = matrix, ops.ones_like(matrix[..., 0, 0])
    return ops.fori_loop(0, matrix.shape[-1], eliminate, start)[1]


def solve_spd(matrix: Tensor, rhs: Tensor) -> Tensor:
    """Solution x (..., T) of `matrix @ x = rhs`, all in float32.

    matrix  (..., T, T)  symmetric, positive definite up to rounding, diagonal of about one or more
    rhs     (..., T)     the same leading axes

    Source: Gauss-Jordan elimination without pivoting, which is stable for such matrices.

    >>> from keras import ops
    >>> x = solve_spd(ops.array([[2.0, 1.0], [1.0, 2.0]]), ops.array([3.0, 3.0]))
    >>> [round(float(v), 4) for v in x]
    [1.0, 1.0]
    """
    if ops.eager():
        found = np.linalg.solve(matrix.astype("float64"), rhs.astype("float64")[..., None])
        return found[..., 0].astype("float32")
    size = matrix.shape[-1]
    if size <= _LOOP_UP_TO.get(keras.backend.backend(), 0):
        return _eliminate(matrix, rhs, size)
    return ops.solve(matrix, rhs[..., None])[..., 0]


def _eliminate(matrix: Tensor, rhs: Tensor, size: int) -> Tensor:
    def clear(_: Tensor, rows: Tensor) -> Tensor:
        first = rows[..., :1, 1:] / ops.maximum(rows[..., :1, :1], _PIVOT)
        rest = rows[..., 1:, 1:] - rows[..., 1:, :1] * first
        return _padded(ops.concatenate([rest, first], axis=-2), 0, 1)

    # The first row is cleared from all others and becomes the last one, and the first column goes:
    # after T rounds the rows are in order again, and what stood on the right is in front.
    rows = ops.concatenate([matrix, rhs[..., None]], axis=-1)
    return ops.fori_loop(0, size, clear, rows)[..., 0]


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """With rows of zeros below and columns of zeros on the right."""
    whole = [(0, 0)] * (len(matrix.shape) - 2)
    return ops.pad(matrix, [*whole, (0, rows), (0, columns)])
