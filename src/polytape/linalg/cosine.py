"""Cosine coordinates: the Gramian of the unit gradients, and their lengths."""

from typing import NamedTuple

from polytape.contract import Tensor, ops


class CosineForm(NamedTuple):
    """A Gramian taken apart: `gramian[i, j] = norms[i] * cosines[i, j] * norms[j]`.

    cosines  (..., T, T)  float32 in [-1, 1], diagonal exactly one; the row and column of an
                          objective that is not alive are those of the identity
    norms    (..., T)     float32 gradient norms; one where not alive, so that all can divide
    alive    (..., T)     bool: active, with a gradient that is not zero
    """

    cosines: Tensor
    norms: Tensor
    alive: Tensor


def cosine_form(gramian: Tensor, active: Tensor | None = None) -> CosineForm:
    """The Gramian in cosine coordinates, where every solver of this package works.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool; all, if None

    No tolerance: a row counts as zero if its entry on the diagonal is zero in float32. Gradient
    norms from 1e-18 to 1e18 are served alike, also side by side.

    >>> from keras import ops
    >>> form = cosine_form(ops.array([[4.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> [float(v) for v in form.norms], [bool(v) for v in form.alive], float(form.cosines[0, 1])
    ([2.0, 2.0, 1.0], [True, True, False], -0.5)
    """
    squared = ops.diagonal(gramian, axis1=-2, axis2=-1)
    alive = squared > 0
    if active is not None:
        alive = ops.logical_and(alive, active)
    norms = ops.sqrt(ops.where(alive, squared, ops.ones_like(squared)))
    # One division at a time: the product of two norms may overflow or vanish.
    cosines = ops.clip(gramian / norms[..., :, None] / norms[..., None, :], -1.0, 1.0)
    size = gramian.shape[-1]
    identity = ops.eye(size, dtype=gramian.dtype)
    both = ops.logical_and(alive[..., :, None], alive[..., None, :])
    keep = ops.logical_and(both, identity < 1)
    return CosineForm(ops.where(keep, cosines, identity), norms, alive)
