"""IMTL-G: an update with equal projections on all gradients."""

from dataclasses import dataclass
from typing import ClassVar

from polytape.contract import Evidence, Method, Scale, State, Tensor, ops
from polytape.linalg.equal_cosines import with_projections


@dataclass(frozen=True)
class IMTLG(Method):
    """Impartial multi-task learning: the update has the same projection on every gradient.

    Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021. With unit rows u_t, the paper
    asks for weights that add up to one and for <u_t, J^T w> equal for all t. From the Gramian: C
    the cosines, d the norms, y = C^+ 1, v = y / d, w = v / sum(v). T backward passes.

    The paper's IMTL, which also learns how to scale the losses for the variables of their own, is
    Chain(IMTLL(), IMTLG()).

    Departs from the paper in the denominator, max(sum(v), sum(|v|) / 100). The sum of v may be
    zero or negative, where the paper's update is infinite or raises every loss; here it stays a
    descent direction and finite, and nothing changes while sum(v) exceeds a hundredth of sum(|v|).
    C^+ is the pseudo-inverse with a relative cut-off: published codes add 1e-8 to a singular
    matrix or stop.

    Weights: may be negative. Degree 1 in the loss scale; the direction does not change if a single
    loss is multiplied by a positive number. Equal gradients: their sum. Exactly opposed rows, or
    unit rows that balance each other: zero up to rounding, no update has equal positive
    projections. Rows that do so nearly are told apart down to 1e-6 rad, where the gradients
    themselves are at hand, and to 1e-3 rad for T > 2 from a Gramian alone (`pt.weigh`); below that
    the update is zero or that of rounding. A zero row
    is left out, with weight zero; it counts as in a mean, so that the others keep their weights on
    the scale of the sum. T = 1: one. rank < T: projections as nearly equal as can be, in the sense
    of least squares.

    Args:
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.IMTLG(), [[1.0, 0.0], [0.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['1.3333', '0.6667']
    """

    scale: Scale = "sum"

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, ICLR 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "impartial"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        even = ops.cast(evidence.active, "float32")
        form, solution, _, _ = with_projections(
            evidence.gramian, evidence.active, even, evidence.get("compressed")
        )
        live = ops.cast(form.alive, "float32")
        shortest = ops.min(ops.where(form.alive, form.norms, 1e38), axis=-1, keepdims=True)
        value = live * solution * (shortest / form.norms)
        total = ops.sum(value, axis=-1, keepdims=True)
        size = ops.sum(ops.abs(value), axis=-1, keepdims=True)
        total = ops.maximum(total, 0.01 * size)
        share = ops.sum(live, axis=-1, keepdims=True) / evidence.count
        return share * value / ops.where(total > 0, total, 1.0), state
