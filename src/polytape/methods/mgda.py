"""MGDA: the point of least norm in the convex hull of the gradients."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, OneOf, Scale, State, Tensor, ops
from polytape.linalg.compressed import unit_rows
from polytape.linalg.cosine import cosine_form
from polytape.linalg.min_norm import min_norm_point

Unit = Annotated[str | None, OneOf((None, "l2", "loss", "loss+"))]


@dataclass(frozen=True)
class MGDA(Method):
    """Multiple-gradient descent: convex weights that make the update as short as possible.

    Desideri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", Comptes
    Rendus Mathematique 2012; Sener & Koltun, "Multi-Task Learning as Multi-Objective
    Optimization", NeurIPS 2018. w = argmin w^T G w over w >= 0, sum(w) = 1. The update J^T w has
    an inner product of at least its own squared norm with every gradient, and is zero exactly at
    Pareto-stationary points. T backward passes; MGDA-UB, which measures the gradients by the shared
    representation and needs one through the network, is `compile(..., measure="features")`.

    The problem is solved to float32 precision, not by a few Frank-Wolfe steps as in published
    codes. Nothing depends on the size of the gradients; a weight may be exactly zero or one.

    Weights: never negative. Degree 1 in the loss scale. Equal gradients: their sum. Opposed
    gradients a and -c a: zero. A zero row is stationary by itself: it takes all the weight and the
    update is zero; with "l2" and "loss+" it weighs zero and the others go on. A loss of zero weighs
    zero with "loss" and "loss+". T = 1: one. Where weights are not unique (rank < T), one solution;
    the update is the same for all of them if `normalize` is None.

    Args:
        normalize: what each gradient is divided by while the weights are sought: None (both papers,
            default), "l2" its norm, "loss" the size of its loss, "loss+" the product of both. As in
            the code of Sener & Koltun, the weights found are applied to the gradients themselves:
            the update need then not lower every loss, and the laws that it keeps are those of None
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.MGDA(scale="mean"), [[1.0, 0.0], [0.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.8000', '0.2000']
    """

    normalize: Unit = None
    scale: Scale = "sum"

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Desideri, 2012; Sener and Koltun, NeurIPS 2018"
    guarantees: ClassVar[frozenset[str]] = frozenset(
        {"non-conflicting", "scale-free", "permutation", "stationary"}
    )
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "An objective without a gradient is stationary, and so is the whole problem."
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        gramian, active, compressed = evidence.gramian, evidence.active, evidence.get("compressed")
        if self.normalize in ("l2", "loss+"):
            gramian, norms, alive = cosine_form(gramian, active)
            if compressed is not None:
                compressed = unit_rows(compressed, norms, alive)
            active = ops.logical_and(active, alive)
        if self.normalize in ("loss", "loss+"):
            size = ops.abs(evidence.losses)
            active = ops.logical_and(active, size > 0)
            # Relative to the smallest loss, so that the products stay in range.
            size = ops.where(active, size, 3e38)
            factor = ops.min(size, axis=-1, keepdims=True) / size
            gramian = gramian * factor[..., :, None] * factor[..., None, :]
            if compressed is not None:
                compressed = compressed * factor[..., None]
        return min_norm_point(gramian, active, compressed), state
