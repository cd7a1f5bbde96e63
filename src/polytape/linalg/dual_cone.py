"""Projection onto the dual cone of the gradients: the directions that raise no loss."""

from keras import ops

from polytape.contract import Tensor
from polytape.linalg.cosine import cosine_form
from polytape.linalg.nonneg import nonneg_qp
from polytape.linalg.solve import with_ridge


def project_onto_dual_cone(gramian: Tensor, active: Tensor, u: Tensor) -> Tensor:
    """Weights v of the projection of each J' u onto the dual cone {x : J x >= 0}.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool
    u        (..., R, T)  float32, non-negative: R vectors for each Gramian
    returns  (..., R, T)  float32: the v >= u that minimises v' G v, so that G v >= 0

    Source: Lopez-Paz & Ranzato 2017 (GEM), eq. 11, in the Gramian form of Quinton & Rey 2024,
    prop. 1. With v = u + z this is a non-negative quadratic programme in z. It is solved in cosine
    coordinates, every vector on its own scale, so no norm of a gradient or of u switches it off.

    Special cases: rows that are zero or inactive take no part, there v = u. Opposed rows: their
    gradients cancel out. Weights that are not unique (rank below T): about the smallest.

    >>> from keras import ops
    >>> gramian = ops.array([[1.0, -1.0], [-1.0, 4.0]])
    >>> v = project_onto_dual_cone(gramian, ops.array([True, True]), ops.eye(2))
    >>> [[round(float(x), 3) for x in row] for row in v]
    [[1.0, 0.25], [1.0, 1.0]]
    """
    form = cosine_form(gramian, active)
    norms = form.norms[..., None, :]
    alive = form.alive[..., None, :]
    # The ratio of norms, not the norms: u times a norm may leave the range of float32.
    longest = ops.max(ops.where(form.alive, form.norms, 0.0), axis=-1)[..., None, None]
    longest = ops.where(longest > 0, longest, ops.ones_like(longest))
    lengths = ops.where(alive, u * (norms / longest), ops.zeros_like(u))
    unit = ops.max(lengths, axis=-1, keepdims=True)
    unit = ops.where(unit > 0, unit, ops.ones_like(unit))
    lengths = lengths / unit
    # Not a matmul: accelerators may round its operands to fewer than 24 bits.
    pull = -ops.sum(form.cosines[..., None, :, :] * lengths[..., None, :], axis=-1)
    z = nonneg_qp(with_ridge(form.cosines)[..., None, :, :], pull) * unit * (longest / norms)
    return ops.where(alive, u + z, u)
