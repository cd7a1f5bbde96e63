"""Small symmetric positive definite systems, many at once."""

import keras
from keras import ops

from polytape.contract import Tensor

# The smallest pivot elimination divides by, for matrices with a diagonal of about one. Rounding may
# make the last pivots of a nearly singular matrix negative; a factorisation would then fail.
_PIVOT = 1e-7

# Largest system that a compiled loop solves faster than the library routine (measured on CPU).
# Eager backends pay for every operation and always call the library.
_LOOP_UP_TO = {"jax": 16, "tensorflow": 64}


def ridge(size: int) -> float:
    """The multiple of the identity that covers the rounding of a unit-diagonal float32 Gramian."""
    return 1e-6 * max(1.0, size / 16)


def with_ridge(matrix: Tensor) -> Tensor:
    """The matrix (..., T, T) plus `ridge(T)` times the identity."""
    size = matrix.shape[-1]
    return matrix + ridge(size) * ops.eye(size, dtype=matrix.dtype)


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


def _eliminate(matrix: Tensor, rhs: Tensor, size: int) -> Tensor:
    index = ops.arange(size)

    def pivot_row(augmented: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # A masked sum compiles to one fused pass; a gather at a traced index does not.
        here = ops.cast(ops.equal(index, k), matrix.dtype)
        row = ops.sum(augmented * here[:, None], axis=-2)
        pivot = ops.sum(row[..., :size] * here, axis=-1, keepdims=True)
        return here, row, ops.maximum(pivot, _PIVOT)

    def forward(k: Tensor, augmented: Tensor) -> Tensor:
        _, row, pivot = pivot_row(augmented, k)
        factor = row[..., :size] * ops.cast(index > k, matrix.dtype) / pivot
        return augmented - factor[..., :, None] * row[..., None, :]

    augmented = ops.concatenate([matrix, rhs[..., None]], axis=-1)
    augmented = ops.fori_loop(0, size, forward, augmented)

    def backward(step: Tensor, x: Tensor) -> Tensor:
        here, row, pivot = pivot_row(augmented, size - 1 - step)
        known = ops.sum(row[..., :size] * x, axis=-1, keepdims=True)
        return x + here * (row[..., size:] - known) / pivot

    return ops.fori_loop(0, size, backward, ops.zeros_like(rhs))
