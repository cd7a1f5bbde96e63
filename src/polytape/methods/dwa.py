"""Dynamic weight average: more weight for losses that fall slowly."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import Evidence, Integer, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.simplex import softmax


class Windows(NamedTuple):
    """Means of the losses over windows of training; all (..., T) float32 but `tick`."""

    total: Tensor  # sum of the losses in the running window
    seen: Tensor  # number of steps of the running window with the objective active
    last: Tensor  # mean loss in the last whole window, zero if there was none
    before: Tensor  # and in the one before
    tick: Tensor  # () int32, steps taken in the running window


@dataclass(frozen=True)
class DWA(Method):
    """Dynamic weight average: objectives whose loss falls slowly get more weight.

    Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, eq. 7.
    One backward pass in all. With r_t the mean loss of the last window over that of the window
    before,

        w = T * softmax(r / temperature).

    Weights: positive; one each in the first two windows, and one each while all ratios agree. They
    do not change when all losses are multiplied by a number: degree 1. Equal gradients: their sum.
    Opposed gradients: the one of the slower loss wins. A zero row keeps its weight.
    T = 1: one. Losses must be positive to have a ratio: where a mean is zero or negative, the
    ratio counts as one. An objective that is inactive in some steps has its mean over the others;
    if in a whole window, it keeps its last means.

    Args:
        steps: length of a window in optimizer steps. The paper's window is one epoch: give the
            number of steps per epoch for that. Default 100, ours
        temperature: the paper's 2; the higher, the closer to equal weights
        scale: "sum" is the paper's: weights add up to the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.DWA(), [[1.0, 0.0], [0.0, 4.0]], losses=[1.0, 2.0])
        >>> [float(w) for w in weights]
        [1.0, 1.0]
    """

    steps: Annotated[int, Integer(1)] = 100
    temperature: Annotated[float, Range(0.0, open="low high")] = 2.0
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Liu, Johns and Davison, CVPR 2019"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Windows:
        zeros = np.zeros((*blocks, len(names)), "float32")
        return Windows(zeros, zeros.copy(), zeros.copy(), zeros.copy(), np.zeros((), "int32"))

    def weigh(self, evidence: Evidence, state: Windows) -> tuple[Tensor, State]:
        known = ops.logical_and(state.last > 0, state.before > 0)
        ratio = ops.where(known, state.last, 1.0) / ops.where(known, state.before, 1.0)
        weights = evidence.count * softmax(ratio / self.temperature, evidence.active)
        return weights, self._advance(evidence, state)

    def _advance(self, evidence: Evidence, state: Windows) -> Windows:
        total = state.total + evidence.losses
        seen = state.seen + ops.cast(evidence.active, "float32")
        tick = state.tick + 1
        over = tick >= self.steps
        closing = ops.logical_and(over, seen > 0)
        mean = total / ops.maximum(seen, 1.0)
        running = ops.cast(~over, "int32")
        return Windows(
            total=total * ops.cast(running, "float32"),
            seen=seen * ops.cast(running, "float32"),
            last=ops.where(closing, mean, state.last),
            before=ops.where(closing, state.last, state.before),
            tick=tick * running,
        )
