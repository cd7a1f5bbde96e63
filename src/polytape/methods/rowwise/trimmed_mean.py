"""Trimmed mean: per coordinate, without the extremes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Integer, Method, Need, Scale, Seed, State, Tensor, ops
from polytape.methods.rowwise.sign_agreement import present


@dataclass(frozen=True)
class TrimmedMean(Method):
    """Coordinate-wise trimmed mean: the mean of what is left without the extremes.

    Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates", ICML 2018, definition 2. In each coordinate the `trim` largest and the
    `trim` smallest entries are dropped and the others averaged, so no gradient alone can carry a
    coordinate away. T backward passes, and the rows themselves, one variable at a time.

    Weights: one each, before trimming. Degree 1 in the loss scale. Equal gradients: their sum.
    Opposed gradients: they drop out, and zero is left of two. A row that is zero throughout a
    variable has no say there, like an inactive objective: the others are trimmed without it. T = 1:
    the gradient itself.

    Args:
        trim: entries dropped at either end; default 1, ours. Where an objective is missing it is
            cut down to what leaves one entry, or two, in the middle: at most the median
        scale: the paper's is "mean"; by default ("sum") the mean is multiplied by the number of
            active objectives that reach the variable

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.TrimmedMean(scale="paper"), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [float(w) for w in weights]
        [0.5, 0.5]
    """

    trim: Annotated[int, Integer(0)] = 1
    scale: Scale = "sum"

    needs: ClassVar[Need] = "rows"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Yin, Chen, Ramchandran and Bartlett, ICML 2018"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(evidence.losses) / evidence.count, state

    def combine(self, rows: Tensor, seed: Seed) -> Tensor:
        del seed
        there = present(rows)
        count = ops.sum(ops.cast(there, "int32"))
        cut = ops.minimum(self.trim, ops.maximum(count - 1, 0) // 2)
        # Missing rows are sorted behind all others.
        ascending = ops.sort(ops.where(there, rows, float("inf")), axis=0)
        place = ops.arange(rows.shape[0], dtype="int32")[:, None]
        kept = ops.logical_and(place >= cut, place < count - cut)
        total = ops.sum(ops.where(kept, ascending, 0.0), axis=0)
        left = ops.maximum(count - 2 * cut, 1)
        return total * (ops.cast(count, rows.dtype) / ops.cast(left, rows.dtype))
