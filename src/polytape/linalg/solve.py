"""Small symmetric positive definite systems, many at once."""

import keras
from keras import ops

from polytape.contract import Tensor

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
    size = matrix.shape[-1]
    identity, index = ops.eye(size, dtype=matrix.dtype), ops.arange(size)

    def eliminate(k: Tensor, loop: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rest, least = loop
        here, row, pivot = _pivot_row(rest, k, index)
        raw = ops.sum(row * here, axis=-1)
        factor = row * ops.cast(index > k, matrix.dtype) / pivot
        return rest - factor[..., :, None] * row[..., None, :], ops.minimum(least, raw)

    def attempt(added: Tensor, low: Tensor, trial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        added = ops.where(low, 32.0 * added, added)
        start = matrix + added[..., None, None] * identity, ops.ones_like(added)
        _, least = ops.fori_loop(0, size, eliminate, start)
        return added, ops.logical_not(least > 0.25 * added), trial + 1

    def going(_added: Tensor, low: Tensor, trial: Tensor) -> Tensor:
        return ops.logical_and(ops.any(low), trial < 5)

    added = ops.full_like(matrix[..., 0, 0], ridge(size) / 32.0)
    start = added, ops.ones_like(added, dtype="bool"), ops.zeros((), dtype="int32")
    added = ops.while_loop(going, attempt, start)[0]
    return matrix + added[..., None, None] * identity


def solve_spd(matrix: Tensor, rhs: Tensor) -> Tensor:
    """Solution x (..., T) of `matrix @ x = rhs`, all in float32.

    matrix  (..., T, T)  symmetric, positive definite up to rounding, diagonal of about one or more
    rhs     (..., T)     the same leading axes

    Source: Gaussian elimination without pivoting, which is backward stable for such matrices.

    >>> from keras import ops
    >>> x = solve_spd(ops.array([[2.0, 1.0], [1.0, 2.0]]), ops.array([3.0, 3.0]))
    >>> [round(float(v), 4) for v in x]
    [1.0, 1.0]
    """
    size = matrix.shape[-1]
    if size <= _LOOP_UP_TO.get(keras.backend.backend(), 0):
        return _eliminate(matrix, rhs, size)
    return ops.solve(matrix, rhs[..., None])[..., 0]


def _pivot_row(augmented: Tensor, k: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indicator (T,) of k, row k of the augmented matrix, and its pivot (..., 1), at least tiny."""
    # A masked sum compiles to one fused pass; a gather at a traced index does not.
    here = ops.cast(ops.equal(index, k), augmented.dtype)
    row = ops.sum(augmented * here[:, None], axis=-2)
    pivot = ops.sum(row[..., : index.shape[0]] * here, axis=-1, keepdims=True)
    return here, row, ops.maximum(pivot, _PIVOT)


def _eliminate(matrix: Tensor, rhs: Tensor, size: int) -> Tensor:
    index = ops.arange(size)

    def forward(k: Tensor, augmented: Tensor) -> Tensor:
        _, row, pivot = _pivot_row(augmented, k, index)
        factor = row[..., :size] * ops.cast(index > k, matrix.dtype) / pivot
        return augmented - factor[..., :, None] * row[..., None, :]

    augmented = ops.concatenate([matrix, rhs[..., None]], axis=-1)
    augmented = ops.fori_loop(0, size, forward, augmented)

    def backward(step: Tensor, x: Tensor) -> Tensor:
        here, row, pivot = _pivot_row(augmented, size - 1 - step, index)
        known = ops.sum(row[..., :size] * x, axis=-1, keepdims=True)
        return x + here * (row[..., size:] - known) / pivot

    return ops.fori_loop(0, size, backward, ops.zeros_like(rhs))
