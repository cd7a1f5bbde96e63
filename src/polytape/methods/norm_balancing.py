"""Norm balancing: every gradient brought to the mean of the norms."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, OneOf, Scale, State, Tensor, ops
from polytape.linalg.cosine import cosine_form


@dataclass(frozen=True)
class NormBalancing(Method):
    """Every gradient scaled to the same norm, the mean (or the sum) of all norms.

    Wang, Sankaran, Wang and Perdikaris, "An Expert's Guide to Training Physics-Informed Neural
    Networks", arXiv:2308.08468, 2023, Algorithm 1. With d_i the gradient norms,

        w_i = mean_j(d_j) / d_i.

    T backward passes; the norms are read off the Gramian's diagonal.

    The paper renews the weights every 1000 steps and averages them over time with decay 0.9:
    `pt.Every(pt.Smoothed(pt.NormBalancing(), decay=0.9), steps=1000)`. It adds a small number to
    d_i; here nothing is added.

    Weights: positive. Degree 1 in the loss scale; the direction, the sum of the unit gradients,
    does not change if a single loss is multiplied by a positive number. Equal gradients: their sum
    with "mean", T times that with "sum". Opposed gradients: zero. A zero row is left out of the
    mean and keeps weight one. T = 1: one. rank < T: no exception.

    Args:
        target: "mean" of the norms (default; jaxpi, the authors' code) or their "sum" (the paper; T
            times as long)
        scale: "sum": with the target "mean", weights of equal gradients are one each; with the
            target "sum", T each

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.NormBalancing(), [[1.0, 0.0], [0.0, 9.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['2.0000', '0.6667']
    """

    target: Annotated[str, OneOf(("mean", "sum"))] = "mean"
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Wang, Sankaran, Wang and Perdikaris, arXiv:2308.08468, 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "impartial"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        _, norms, alive = cosine_form(evidence.gramian, evidence.active)
        live = ops.cast(alive, "float32")
        total = ops.sum(live * norms, axis=-1, keepdims=True)
        if self.target == "mean":
            total = total / ops.maximum(ops.sum(live, axis=-1, keepdims=True), 1.0)
        return ops.where(alive, total / norms, 1.0), state
