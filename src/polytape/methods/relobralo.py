"""ReLoBRaLo: relative loss balancing with random looks back to the start."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.ratio import ratio
from polytape.linalg.simplex import softmax


class Progress(NamedTuple):
    """What the weights are compared with and made from; all (..., T) float32."""

    first: Tensor  # first positive loss, zero if there was none yet
    last: Tensor  # loss of the last step with the objective active
    weights: Tensor  # and its weight then


@dataclass(frozen=True)
class ReLoBRaLo(Method):
    """Relative loss balancing with random lookback: what lags behind its own past weighs more.

    Bischof and Kraus, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning",
    arXiv:2110.09813, 2021. One backward pass in all. With
    balance(t, s)_i = T softmax_i(L_i(t) / (temperature L_i(s))) and, in each step, rho = 1 with
    probability `saudade` and 0 otherwise,

        w(t) = decay (rho w(t - 1) + (1 - rho) balance(t, 0)) + (1 - decay) balance(t, t - 1).

    The paper tunes all three per problem; the defaults are those of the experiments of ConFIG
    (Liu et al., ICLR 2025).

    Weights: positive, within the precision of a softmax; one each in the first step. They do not
    change when all losses are multiplied by a number: degree 1. Equal gradients: their sum. Opposed
    gradients: the one of the lagging loss wins. A zero row keeps its weight. T = 1: one. One draw
    per step, the same for all blocks. Losses must be positive to have a ratio: it counts as one
    where the loss is negative or the loss compared with zero or negative. An inactive objective
    keeps what it has; the last weights of the others are rescaled to add up to their number.

    Args:
        decay: alpha, the share of the past; 0.999
        temperature: of the softmax; the higher, the closer to equal weights; 0.1
        saudade: the probability of going on from the last weights rather than from a look back to
            the first step; 0.999
        scale: "sum" is the paper's: weights add up to the number of active objectives

    Example:
        >>> import polytape as pt
        >>> method = pt.ReLoBRaLo(decay=0.0, temperature=1.0)
        >>> _, state = pt.weigh(method, losses=[2.0, 1.0])
        >>> weights, state = pt.weigh(method, losses=[2.0, 0.5], state=state)
        >>> [f"{float(w):.4f}" for w in weights]
        ['1.2449', '0.7551']
    """

    decay: Annotated[float, Range(0.0, 1.0)] = 0.999
    temperature: Annotated[float, Range(0.0, open="low high")] = 0.1
    saudade: Annotated[float, Range(0.0, 1.0)] = 0.999
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Bischof and Kraus, arXiv:2110.09813, 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Progress:
        zeros = np.zeros((*blocks, len(names)), "float32")
        return Progress(zeros, zeros.copy(), np.ones_like(zeros))

    def weigh(self, evidence: Evidence, state: Progress) -> tuple[Tensor, State]:
        active, losses = evidence.active, evidence.losses
        first = ops.where(state.first > 0, state.first, ops.maximum(losses, 0.0))
        total = ops.sum(ops.where(active, state.weights, 0.0), axis=-1, keepdims=True)
        share = state.weights / ops.where(total > 0, total, 1.0)
        history = ops.where(total > 0, evidence.count * share, 1.0)
        goes_on = ops.uniform((1,), evidence.seed) < self.saudade
        past = ops.where(goes_on, history, self._balance(evidence, first))
        present = self._balance(evidence, state.last)
        weights = self.decay * past + (1.0 - self.decay) * present
        return weights, Progress(
            first,
            ops.where(active, losses, state.last),
            ops.where(active, weights, state.weights),
        )

    def _balance(self, evidence: Evidence, reference: Tensor) -> Tensor:
        lag = ratio(evidence.losses, reference) / self.temperature
        return evidence.count * softmax(lag, evidence.active)
