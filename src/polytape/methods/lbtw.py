"""LBTW: losses that have fallen far since the start of a period weigh less."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import Evidence, Integer, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.ratio import ratio


class Start(NamedTuple):
    """What a period began with."""

    losses: Tensor  # (..., T) float32, the first positive loss; zero if there was none yet
    tick: Tensor  # () int32, steps taken in the period


@dataclass(frozen=True)
class LBTW(Method):
    """Loss-balanced task weighting: the less a loss has fallen in a period, the more it weighs.

    Liu, Liang and Gitter, "Loss-Balanced Task Weighting to Reduce Negative Transfer in Multi-Task
    Learning", AAAI 2019. One backward pass in all. With r_i the loss over its value in the first
    step of the running period,

        w = T * r^alpha / sum(r^alpha).

    Weights: never negative; one each in the first step of a period. They do not change when all
    losses are multiplied by a number: degree 1. Equal gradients: their sum. Opposed gradients: the
    one of the loss left behind wins. A zero row keeps its weight. T = 1: one. A period begins, for
    an objective, with its first positive loss; until then, and where the loss is negative, its
    ratio counts as one. A loss of zero weighs zero, or one if all are zero.

    Args:
        alpha: 0 is the plain sum; the higher, the more the objectives left behind dominate. The
            paper chooses it per data set; default 0.5, ours
        steps: length of a period in optimizer steps. The authors' code begins one with each epoch:
            give the number of steps per epoch for that. Default 100, ours
        scale: "sum": as in the authors' code, weights add up to the number of active objectives

    Example:
        >>> import polytape as pt
        >>> _, state = pt.weigh(pt.LBTW(), losses=[4.0, 1.0])
        >>> weights, state = pt.weigh(pt.LBTW(), losses=[1.0, 1.0], state=state)
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.6667', '1.3333']
    """

    alpha: Annotated[float, Range(0.0, open="high")] = 0.5
    steps: Annotated[int, Integer(1)] = 100
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Liu, Liang and Gitter, AAAI 2019"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Start:
        return Start(np.zeros((*blocks, len(names)), "float32"), np.zeros((), "int32"))

    def weigh(self, evidence: Evidence, state: Start) -> tuple[Tensor, State]:
        # An inactive objective has a loss of zero, so it cannot begin.
        first = ops.where(state.losses > 0, state.losses, ops.maximum(evidence.losses, 0.0))
        fallen = ops.where(evidence.active, ratio(evidence.losses, first), 0.0)
        largest = ops.max(fallen, axis=-1, keepdims=True)
        fallen = ops.where(largest > 0, fallen / ops.where(largest > 0, largest, 1.0), 1.0)
        power = ops.where(evidence.active, ops.power(fallen, self.alpha), 0.0)
        total = ops.sum(power, axis=-1, keepdims=True)
        weights = evidence.count * power / ops.where(total > 0, total, 1.0)
        tick = state.tick + 1
        over = tick >= self.steps
        return weights, Start(
            ops.where(over, 0.0, first), ops.where(over, ops.zeros_like(tick), tick)
        )
