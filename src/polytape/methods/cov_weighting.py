"""CoV weighting: more weight for losses that vary much relative to their mean."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.ratio import ratio


class Moments(NamedTuple):
    """Running statistics of the losses seen so far; all (..., T) float32."""

    seen: Tensor  # number of steps with the objective active
    loss: Tensor  # mean of the losses
    mean: Tensor  # mean of the loss ratios
    variance: Tensor  # and their variance


@dataclass(frozen=True)
class CoVWeighting(Method):
    """Weights in proportion to the coefficient of variation of each loss.

    Groenendijk, Karaoglu, Gevers and Mensink, "Multi-Loss Weighting with Coefficient of
    Variations", WACV 2021. One backward pass in all. With the loss ratio l_t = L_t / mean(L_1, ...,
    L_(t-1)), and mean and standard deviation (Welford's running sums) of all its values before this
    step,

        w = c / sum(c),    c = std(l) / mean(l).

    As in the authors' code, 1e-8 is added to the variance of the ratios, which have no unit: losses
    that stand still have a weight, too, and equal weights if all do. There a decay acts on the
    means only; here on the variance as well.

    Weights: positive; equal in the first two steps. They do not change when all losses are
    multiplied by a number: degree 1. Equal gradients: their sum. Opposed gradients: the one of the
    less steady loss wins. A zero row keeps its weight. T = 1: one. Losses must be positive to have
    a ratio: it counts as one where the loss is negative or the mean so far zero or negative. An
    inactive objective keeps its statistics; seen less than twice, it takes an equal share.

    Args:
        decay: None (the paper's default): statistics over all of training. A number gives the
            newest value the share 1 - decay instead
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives, so that their mean is one

    Example:
        >>> import polytape as pt
        >>> method, state = pt.CoVWeighting(scale="paper"), None
        >>> for losses in ([1.0, 1.0], [2.0, 1.5], [1.0, 1.0]):
        ...     weights, state = pt.weigh(method, losses=losses, state=state)
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.6250', '0.3750']
    """

    decay: Annotated[float | None, Range(0.0, 1.0, open="low high", optional=True)] = None
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Groenendijk, Karaoglu, Gevers and Mensink, WACV 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Moments:
        shape = (*blocks, len(names))
        return Moments(*(np.zeros(shape, "float32") for _ in Moments._fields))

    def weigh(self, evidence: Evidence, state: Moments) -> tuple[Tensor, State]:
        known = ops.logical_and(evidence.active, state.seen >= 2)
        spread = ops.sqrt(state.variance + 1e-8) / ops.maximum(state.mean, 1e-15)
        spread = ops.where(known, spread, 0.0)
        total = ops.sum(spread, axis=-1, keepdims=True)
        some = ops.sum(ops.cast(known, "float32"), axis=-1, keepdims=True)
        usual = ops.where(some > 0, total / ops.maximum(some, 1.0), 1.0)
        spread = ops.where(evidence.active, ops.where(known, spread, usual), 0.0)
        total = ops.sum(spread, axis=-1, keepdims=True)
        return spread / ops.where(total > 0, total, 1.0), self._advance(evidence, state)

    def _advance(self, evidence: Evidence, state: Moments) -> Moments:
        seen = state.seen + 1.0
        keep = 1.0 - 1.0 / seen
        if self.decay is not None:
            keep = ops.where(state.seen > 0, self.decay, 0.0)
        value = ratio(evidence.losses, state.loss)
        mean = keep * state.mean + (1.0 - keep) * value
        square = (value - state.mean) * (value - mean)
        moments = (
            seen,
            keep * state.loss + (1.0 - keep) * evidence.losses,
            mean,
            keep * state.variance + (1.0 - keep) * square,
        )
        pairs = zip(moments, state, strict=True)
        return Moments(*(ops.where(evidence.active, new, old) for new, old in pairs))
