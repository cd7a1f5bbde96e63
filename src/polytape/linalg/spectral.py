"""Functions of a symmetric positive semi-definite T x T matrix, through its eigenvalues.

Everything is relative: an eigenvalue of at most `T * eps * largest` (eps that of float32) is
round-off of a zero, and counts as zero. In terms of gradients: a direction in which the rows of J
are `sqrt(T * eps)`, about 1/1500 for T = 4, of the strongest is not seen. A Gramian that was
accumulated in float32 carries no more information than that.

Products are written as `sum(a * b)`: a matrix product may be computed in TF32 on a GPU.
"""

from typing import NamedTuple

import numpy as np

from polytape.contract import Tensor, ops

EPSILON = float(np.finfo("float32").eps)


class Spectrum(NamedTuple):
    """Eigenvalues of a matrix divided by `unit`, ascending, with the ones that count.

    values   (..., T)     in units of `unit`; one where they do not count
    vectors  (..., T, T)  eigenvectors in columns
    kept     (..., T)     float32, one where an eigenvalue counts, else zero
    unit     (..., 1)     largest diagonal entry of the matrix; one if that is zero
    """

    values: Tensor
    vectors: Tensor
    kept: Tensor
    unit: Tensor

    def coordinates(self, vector: Tensor) -> Tensor:
        """Coordinates (..., T) of a vector (..., T) along the eigenvectors that count.

        All zeros if what is left of the vector is round-off.
        """
        found = self.kept * ops.sum(self.vectors * vector[..., :, None], axis=-2)
        size = ops.sum(ops.square(vector), axis=-1, keepdims=True)
        left = ops.sum(ops.square(found), axis=-1, keepdims=True)
        floor = (8 * vector.shape[-1] * EPSILON) ** 2
        return ops.where(left > floor * size, found, 0.0)

    def vector(self, coordinates: Tensor) -> Tensor:
        """The vector (..., T) with these coordinates."""
        return ops.sum(self.vectors * coordinates[..., None, :], axis=-1)


def spectrum(matrix: Tensor) -> Spectrum:
    """Spectrum of a symmetric positive semi-definite matrix (..., T, T), float32."""
    diagonal = ops.diagonal(matrix, axis1=-2, axis2=-1)
    largest = ops.max(diagonal, axis=-1, keepdims=True)
    unit = ops.where(largest > 0, largest, ops.ones_like(largest))
    # With many rows of zeros (inactive objectives) LAPACK may not converge; -1 counts as little.
    blank = ops.cast(ops.equal(diagonal, 0.0), "float32")[..., None]
    identity = ops.eye(matrix.shape[-1], dtype="float32")
    values, vectors = ops.eigh(matrix / unit[..., None] - blank * identity)
    cut = matrix.shape[-1] * EPSILON * values[..., -1:]
    counts = values > cut
    kept = ops.cast(counts, "float32")
    return Spectrum(ops.where(counts, values, 1.0), vectors, kept, unit)


def closer(found: Spectrum, compressed: Tensor) -> Spectrum:
    """The spectrum of a Gramian with its eigenvalues measured by rows, where these are known.

    compressed  (..., T, T)  what `compressed_rows` made of the gradients, or zeros

    An eigenvalue counts if its combination of gradients is more than rounding: 1e-6 of the longest.
    """
    unit = ops.sqrt(found.unit)[..., None]
    mixed = ops.sum(found.vectors[..., :, :, None] * (compressed / unit)[..., :, None, :], axis=-3)
    values = ops.sum(ops.square(mixed), axis=-1)
    size = values.shape[-1]
    counts = values > size * (8 * EPSILON) ** 2 * ops.max(values, axis=-1, keepdims=True)
    seen = ops.any(compressed != 0, axis=(-2, -1))[..., None]
    return found._replace(
        values=ops.where(seen, ops.where(counts, values, 1.0), found.values),
        kept=ops.where(seen, ops.cast(counts, "float32"), found.kept),
    )


def pseudo_solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """Least-squares solution (..., T) of least norm: the pseudo-inverse times the vector.

    All zeros if the vector has no part, beyond round-off, in the range of the matrix.
    """
    found = spectrum(matrix)
    return found.vector(found.coordinates(vector) / found.values) / found.unit
