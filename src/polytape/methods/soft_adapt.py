"""SoftAdapt: weights by the recent slopes of the losses."""

from dataclasses import dataclass
from math import comb
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import (
    Evidence,
    Integer,
    Method,
    Need,
    OneOf,
    Range,
    Scale,
    State,
    Tensor,
    ops,
)
from polytape.linalg.simplex import softmax


class Recent(NamedTuple):
    """The last losses of every objective."""

    losses: Tensor  # (..., T, window) float32, newest last; zeros where nothing was seen yet
    seen: Tensor  # (..., T) float32, how many of them were seen


@dataclass(frozen=True)
class SoftAdapt(Method):
    """Weights from a softmax of the recent slopes of the losses: rising ones weigh most.

    Heydari, Thompson and Mehio, "SoftAdapt: Techniques for Adaptive Loss Weighting of Neural
    Networks with Multi-Part Loss Functions", arXiv:1912.12355, 2019. One backward pass in all. With
    s_i the slope of loss i at the current step, by a backward difference over the last losses, and
    f_i its mean over the window,

        "original"       w = softmax(beta s)
        "normalized"     w = softmax(beta s / sum_j |s_j|)
        "loss-weighted"  w_i = f_i exp(beta s_i) / sum_j f_j exp(beta s_j)

    The sum of absolute slopes is the paper's; some of the authors' code divides by the sum of the
    slopes, which may vanish and whose sign, while losses fall, turns the preference round. That
    code takes the slope at the oldest loss of the window, here it is at the newest. For weights
    renewed now and then from losses that far apart: `pt.Every(pt.SoftAdapt(), steps=100)`.

    Weights: never negative. Equal slopes (and means) give equal weights, hence equal gradients
    their sum. Only "normalized" is blind to a common factor of all losses (degree 1); in the
    others, slopes are in units of the loss. Opposed gradients: the one of the faster rising loss
    wins. A zero row keeps its weight. T = 1: one. Slopes may have any sign, and so may losses: in
    "loss-weighted" f counts by its size, and weights are equal if all are zero. A slope is zero
    until order + 1 losses were seen. Losses beyond 1e30 count as 1e30. An inactive objective keeps
    its history.

    Args:
        variant: as above; default "original"
        beta: the paper's 0.1; a negative number favours the losses that fall fastest
        window: number of losses remembered, the current one included; 5 as in the authors' code
        order: accuracy of the backward difference, which takes order + 1 losses. One, the
            difference of the last two, is the paper's; the authors' code takes window - 1
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives, so that their mean is one

    Example:
        >>> import polytape as pt
        >>> method = pt.SoftAdapt(beta=1.0, scale="paper")
        >>> _, state = pt.weigh(method, losses=[2.0, 1.0])
        >>> weights, state = pt.weigh(method, losses=[1.0, 1.0], state=state)
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.2689', '0.7311']
    """

    variant: Annotated[str, OneOf(("original", "normalized", "loss-weighted"))] = "original"
    beta: Annotated[float, Range(open="low high")] = 0.1
    window: Annotated[int, Integer(2)] = 5
    order: Annotated[int, Integer(1)] = 1
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Heydari, Thompson and Mehio, arXiv:1912.12355, 2019"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "a softmax of slopes in units of the loss is not homogeneous",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order >= self.window:
            raise ValueError(
                f"SoftAdapt(window={self.window}, order={self.order}): a backward difference of "
                f"order {self.order} takes {self.order + 1} losses. Give a window of at least "
                f"{self.order + 1}, or a lower order."
            )

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Recent:
        shape = (*blocks, len(names))
        return Recent(np.zeros((*shape, self.window), "float32"), np.zeros(shape, "float32"))

    def weigh(self, evidence: Evidence, state: Recent) -> tuple[Tensor, State]:
        active = evidence.active
        loss = ops.clip(evidence.losses, -1e30, 1e30)[..., None]
        newer = ops.concatenate([state.losses[..., 1:], loss], axis=-1)
        losses = ops.where(active[..., None], newer, state.losses)
        seen = ops.minimum(state.seen + ops.cast(active, "float32"), float(self.window))
        backward = ops.convert_to_tensor(difference(self.order, self.window))
        slopes = ops.sum(losses * backward, axis=-1)
        slopes = ops.where(ops.logical_and(active, seen > self.order), slopes, 0.0)
        if self.variant == "normalized":
            size = ops.sum(ops.abs(slopes), axis=-1, keepdims=True)
            slopes = slopes / ops.where(size > 0, size, 1.0)
        weights = softmax(self.beta * slopes, active)
        if self.variant == "loss-weighted":
            means = ops.sum(losses, axis=-1) / ops.maximum(seen, 1.0)
            weights = ops.abs(means) * weights
            total = ops.sum(weights, axis=-1, keepdims=True)
            equal = ops.cast(active, "float32") / evidence.count
            weights = ops.where(total > 0, weights / ops.where(total > 0, total, 1.0), equal)
        return weights, Recent(losses, seen)


def difference(order: int, window: int) -> np.ndarray:
    """Coefficients (window,) of the slope at the newest of equally spaced values, newest last.

    The backward difference of accuracy `order` is the sum of the first `order` powers of the step
    back, each divided by its number.

    >>> [float(c) for c in difference(2, 4)]
    [0.0, 0.5, -2.0, 1.5]
    """
    found = np.zeros(window)
    for power in range(1, order + 1):
        for back in range(power + 1):
            found[-1 - back] += (-1) ** back * comb(power, back) / power
    return found.astype("float32")
