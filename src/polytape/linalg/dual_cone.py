"""Projection onto the dual cone of the gradients: the directions that raise no loss."""

from polytape.contract import Evidence, Tensor, ops
from polytape.linalg.compressed import along, gains, length, unit_rows
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.nonneg import nonneg_qp, refined
from polytape.linalg.reciprocal import or_one
from polytape.linalg.solve import with_ridge


def regularised(evidence: Evidence, share: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gramian, activity and compressed rows of an evidence, with more on the diagonal.

    share  of the trace, added to every diagonal entry that is not zero. Compressed rows go: what
           they tell is too small to be seen then
    """
    gramian: Tensor = evidence.gramian
    if not share:
        return gramian, evidence.active, evidence.get("compressed")
    squared = ops.diagonal(gramian, axis1=-2, axis2=-1)
    squared = ops.where(evidence.active, squared, ops.zeros_like(squared))
    trace = ops.sum(share * squared, axis=-1, keepdims=True)
    added = ops.where(squared > 0, trace, ops.zeros_like(squared))
    identity = ops.eye(gramian.shape[-1], dtype=gramian.dtype)
    return gramian + identity * added[..., None, :], evidence.active, None


def project_onto_dual_cone(
    gramian: Tensor, active: Tensor, compressed: Tensor | None, u: Tensor
) -> Tensor:
    """Weights v of the projection of each J' u onto the dual cone {x : J x >= 0}.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool
    compressed  (..., T, T)  what `compressed_rows` made of the gradients, or zeros; None: unknown
    u        (..., R, T)  float32, non-negative: R vectors for each Gramian
    returns  (..., R, T)  float32: the v >= u that minimises v' G v, so that G v >= 0

    Source: Lopez-Paz & Ranzato 2017 (GEM), eq. 11, in the Gramian form of Quinton & Rey 2024,
    prop. 1. With v = u + z this is a non-negative quadratic programme in z. It is solved in cosine
    coordinates, every vector on its own scale, so no norm of a gradient or of u switches it off.
    Two gradients need no programme: v_i is the larger one of u_i and what takes g_j' d to zero.

    Special cases: rows that are zero or inactive take no part, there v = u. Opposed rows: their
    gradients cancel out. Weights that are not unique (rank below T): about the smallest.

    >>> from keras import ops
    >>> gramian = ops.array([[1.0, -1.0], [-1.0, 4.0]])
    >>> v = project_onto_dual_cone(gramian, ops.array([True, True]), None, ops.eye(2))
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
    z = _closed(form, lengths) if u.shape[-1] == 2 else _solved(form, lengths)
    if compressed is not None:
        z = _looked_at(form, lengths, z, compressed)
    return ops.where(alive, u + z * unit * (longest / norms), u)


def _closed(form: CosineForm, lengths: Tensor) -> Tensor:
    needed = -form.cosines[..., None, 0, 1:] * ops.flip(lengths, axis=-1)
    return ops.maximum(needed - lengths, 0.0)


def _solved(form: CosineForm, lengths: Tensor) -> Tensor:
    # Not a matmul: accelerators may round its operands to fewer than 24 bits.
    if ops.eager():
        pull = -(lengths @ form.cosines)
    else:
        pull = -ops.sum(form.cosines[..., None, :, :] * lengths[..., None, :], axis=-1)
    return nonneg_qp(with_ridge(form.cosines)[..., None, :, :], pull)


def _looked_at(form: CosineForm, lengths: Tensor, z: Tensor, compressed: Tensor) -> Tensor:
    """z, corrected until no projection of the direction itself is negative."""
    unit = unit_rows(compressed, form.norms, form.alive)
    rows = unit[..., None, :, :]

    def slack(z: Tensor) -> tuple[Tensor, Tensor]:
        direction = along(rows, lengths + z)
        return gains(rows, direction), or_one(length(direction))

    def corrected() -> Tensor:
        return refined(with_ridge(form.cosines)[..., None, :, :], z, slack)

    return ops.cond(ops.any(unit != 0), corrected, lambda: z)
