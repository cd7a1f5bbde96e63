"""Rows in T coordinates: what gradients say of each other where their Gramian cannot.

A Gramian in float32 has lost what is smaller than about 3e-4 in the angles between gradients: the
cosine of 1e-4 is one. Beside the Pareto front, where a combination of the gradients with positive
weights is almost zero, that small combination is all that counts. It is there in the rows, to
1e-7 of their length: so the combinations that the Gramian shows to be short are formed from the
rows first, and multiplied afterwards.

Three functions in this order: `dependent` says whether that is needed at all, `mixing` which
combinations to form, and `compressed_rows` makes of the Gramian of those combinations T rows of T
entries each that have the angles of the gradients. All arrays may have leading axes.
"""

from polytape.contract import Tensor, ops
from polytape.linalg.cosine import cosine_form

# A smallest eigenvalue of the cosines below this asks for a closer look: for two gradients, an
# angle of less than 0.03 rad from opposed or from parallel.
_NEAR = 1e-3


def dependent(gramian: Tensor) -> Tensor:
    """() bool: whether the rows of some Gramian (..., T, T) are nearly linearly dependent."""
    squared = ops.diagonal(gramian, axis1=-2, axis2=-1)
    norms = ops.sqrt(ops.where(squared > 0, squared, ops.ones_like(squared)))
    if gramian.shape[-1] == 2:
        bound = (1 - 0.5 * _NEAR) * norms[..., 0] * norms[..., 1]
        return ops.any(ops.abs(gramian[..., 0, 1]) > bound)
    # Cosines, with the rows of the identity for zero rows, in as few operations as it takes: eager
    # and graph backends pay for each of them in every step.
    blank = ops.cast(squared <= 0, gramian.dtype)
    identity = ops.eye(gramian.shape[-1], dtype=gramian.dtype)
    cosines = gramian / norms[..., :, None] / norms[..., None, :] + identity * blank[..., None]
    return ops.any(ops.eigh(cosines)[0][..., 0] < _NEAR)


def mixing(gramian: Tensor) -> Tensor:
    """Combinations (..., T, T) of the rows to be measured: as many, in rows, none for zero rows.

    The eigenvectors of the cosines, for rows of length one.
    """
    form = cosine_form(gramian)
    inverse = ops.where(form.alive, 1.0 / form.norms, ops.zeros_like(form.norms))
    return ops.swapaxes(ops.eigh(form.cosines)[1], -1, -2) * inverse[..., None, :]


def compressed_rows(gramian: Tensor, mixed: Tensor, products: Tensor) -> Tensor:
    """F (..., T, T) with `F F^T` the Gramian, each row as exact as float32 rows can be.

    gramian   (..., T, T)  float32 inner products of the gradients
    mixed     (..., T, T)  what `mixing` made of it
    products  (..., T, T)  float32 inner products of these combinations of the gradients

    >>> from keras import ops
    >>> gramian = ops.array([[4.0, 2.0], [2.0, 4.0]])
    >>> mixed = mixing(gramian)
    >>> F = compressed_rows(gramian, mixed, mixed @ gramian @ ops.transpose(mixed))
    >>> [[round(float(x), 4) for x in row] for row in F @ ops.transpose(F)]
    [[4.0, 2.0], [2.0, 4.0]]
    """
    form = cosine_form(gramian)
    identity = ops.eye(gramian.shape[-1], dtype=gramian.dtype)
    # The inverse of the combinations, which are orthogonal up to a few roundings.
    base = ops.swapaxes(mixed * form.norms[..., None, :], -1, -2)
    defect = identity - _product(ops.swapaxes(base, -1, -2), base)
    base = base + _product(base, defect)
    short = cosine_form(products)
    values, vectors = ops.eigh(short.cosines)
    roots = ops.sqrt(ops.maximum(values, 0.0))
    root = _product(vectors * roots[..., None, :], ops.swapaxes(vectors, -1, -2))
    lengths = ops.where(short.alive, short.norms, ops.zeros_like(short.norms))
    unit = _product(base * lengths[..., None, :], root)
    return ops.where(form.alive[..., None], unit * form.norms[..., None], ops.zeros_like(unit))


def unit_rows(compressed: Tensor, norms: Tensor, alive: Tensor) -> Tensor:
    """Compressed rows (..., T, T) divided by the norms of the gradients; zero where not alive."""
    return ops.where(alive[..., None], compressed / norms[..., None], ops.zeros_like(compressed))


def along(unit: Tensor, weights: Tensor) -> Tensor:
    """The combinations (..., T) of unit rows (..., T, T) with weights (..., T)."""
    return ops.sum(unit * weights[..., None], axis=-2)


def gains(unit: Tensor, direction: Tensor) -> Tensor:
    """The projections (..., T) of a direction (..., T) on the unit rows (..., T, T)."""
    return ops.sum(unit * direction[..., None, :], axis=-1)


def length(direction: Tensor) -> Tensor:
    """Norm (..., 1) of directions (..., T)."""
    return ops.sqrt(ops.sum(ops.square(direction), axis=-1, keepdims=True))


# Not a matmul: accelerators may round its operands to fewer than 24 bits.
def _product(one: Tensor, other: Tensor) -> Tensor:
    return ops.sum(one[..., :, :, None] * other[..., None, :, :], axis=-2)
