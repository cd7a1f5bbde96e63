"""Sign agreement: only the coordinates on whose direction the objectives agree."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, Scale, Seed, State, Tensor, ops


def present(rows: Tensor) -> Tensor:
    """(T, 1) bool: which rows (T, n) have an entry that is not zero."""
    return ops.any(ops.not_equal(rows, 0), axis=-1, keepdims=True)


@dataclass(frozen=True)
class SignAgreement(Method):
    """Agreement mask (AND-mask): coordinates on whose sign the objectives disagree stay still.

    Parascandolo, Neitz, Orvieto, Gresele and Schoelkopf, "Learning explanations that are hard to
    vary", ICLR 2021. A coordinate is kept if |sum_t sign(g_t)| >= threshold * T, and is
    then the sum of its entries; else it is zero. T backward passes, and the rows themselves, one
    variable at a time.

    Leaves out a rescaling by the share of coordinates kept, which published code adds.

    Weights: one each; what is masked differs from coordinate to coordinate. Degree 1 in the loss
    scale. Equal gradients: their sum. Opposed gradients: zero. An entry that is zero agrees with
    nobody; but a row that is zero throughout a variable has no say there, like an inactive
    objective. T = 1: the gradient itself.

    Args:
        threshold: agreement asked for: 1, all signs equal (the paper's AND-mask, default); if a
            share p of the objectives has one sign and the others the opposite one, the agreement is
            2p - 1. Zero keeps everything: the sum
        scale: the paper averages the gradients ("mean"); by default ("sum") they are added

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.SignAgreement(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [float(w) for w in weights]
        [1.0, 1.0]
    """

    threshold: Annotated[float, Range(0.0, 1.0)] = 1.0
    scale: Scale = "sum"

    needs: ClassVar[Need] = "rows"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Parascandolo, Neitz, Orvieto, Gresele and Schoelkopf, ICLR 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(evidence.losses) / evidence.count, state

    def combine(self, rows: Tensor, seed: Seed) -> Tensor:
        del seed
        agreement = ops.abs(ops.sum(ops.sign(rows), axis=0))
        voters = ops.sum(ops.cast(present(rows), rows.dtype))
        # Agreement is a whole number: what is taken off covers the rounding of the product only.
        kept = agreement >= self.threshold * voters - 1e-3
        return ops.where(kept, ops.sum(rows, axis=0), 0.0)
