"""GLS: the geometric mean of the losses."""

from dataclasses import dataclass
from typing import ClassVar

from polytape.contract import Evidence, Method, Need, Scale, State, Tensor, ops
from polytape.linalg.reciprocal import logarithm, reciprocal


@dataclass(frozen=True)
class GLS(Method):
    """Geometric loss strategy: descent on the geometric mean of the losses.

    Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
    Multi-Task Learning", CVPR Workshops 2019: the root (L_1 ... L_T)^(1/T), whose gradient has the
    weights w_t = (L_1 ... L_T)^(1/T) / (T L_t). One backward pass in all. The product is taken as a
    sum of logarithms, so that it does not leave the range of numbers.

    Weights: never negative. Degree 1 in the loss scale; multiplying a single loss changes the
    length of the update only. Equal gradients of equal losses: their sum. Opposed gradients of
    equal length: the one of the smaller loss wins. T = 1: one. A zero row takes part with its loss.
    Losses must be positive to have a geometric mean, and published code overflows or raises: here a
    negative one counts by its size, and goes on falling; one of exactly zero weighs zero and is
    left out of the mean of the others, which would otherwise all stop.

    Args:
        scale: the paper's weights of equal losses add up to one ("mean"); by default ("sum") they
            are multiplied by the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.GLS(), losses=[1.0, 4.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['2.0000', '0.5000']
    """

    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Chennupati, Sistu, Yogamani and Rawashdeh, CVPR Workshops 2019"
    guarantees: ClassVar[frozenset[str]] = frozenset({"impartial", "permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "it sees losses only: one without a gradient changes the mean all the same"
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        size = ops.abs(evidence.losses)
        counted = ops.cast(reciprocal(size) > 0, "float32")
        number = ops.maximum(ops.sum(counted, axis=-1, keepdims=True), 1.0)
        logs = logarithm(size)
        mean = ops.sum(logs, axis=-1, keepdims=True) / number
        # Losses forty orders of magnitude apart still have a finite weight.
        return counted * ops.exp(ops.minimum(mean - logs, 80.0)) / evidence.count, state
