"""ResNorm: GradNorm with the losses themselves in place of the norms of their gradients."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.training_rates import Balance, balance, unbalanced


@dataclass(frozen=True)
class ResNorm(Method):
    """Residual normalization: weighted losses are trained to be of similar size.

    A scheme of NVIDIA PhysicsNeMo Sym, after `GradNorm`. With R_t = w_t L_t, their mean R, and the
    inverse training rate r_t = (L_t / L_t(0)) / mean(L / L(0)), the weights are trained to lower
    sum_t |R_t - R r_t^alpha|, the second term held fixed, and add up to the number of active
    objectives after each step. One backward pass in all.

    Departs from published code in the mean R, which is that of unweighted losses there: weights
    that add up to a given number cannot reach that target as a rule, and never come to rest. As in
    `GradNorm`, a step is multiplied onto the weights.

    Weights: positive; one each at the start. They do not change when all losses are multiplied by a
    number: degree 1. Equal gradients of equal losses: their sum. Opposed gradients of equal length:
    in the end the smaller or slower loss wins. T = 1: one. A zero row takes part with its loss.
    Losses count by their size in R_t; one of zero keeps its weight and counts in no mean, one that
    was not positive at the start counts as unchanged. L(0) is the loss when an objective is first
    active. An inactive objective keeps its place among the weights.

    Args:
        alpha: how strongly an objective that falls slowly is favoured; the published 1
        rate: of the Adam that trains the weights, one step in each step of training. In published
            code the optimizer of the network trains them; 1e-3, that of Keras's Adam, is our
            default
        scale: "sum" is the published one

    Example:
        >>> import polytape as pt
        >>> method = pt.ResNorm(rate=0.5)
        >>> _, state = pt.weigh(method, losses=[1.0, 4.0])
        >>> weights, _ = pt.weigh(method, losses=[1.0, 4.0], state=state)
        >>> [f"{float(w):.3f}" for w in weights]
        ['1.462', '0.538']
    """

    alpha: Annotated[float, Range(0.0, open="high")] = 1.0
    rate: Annotated[float, Range(0.0, 1e6)] = 1e-3
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "NVIDIA PhysicsNeMo Sym, after Chen et al., ICML 2018"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Balance:
        return unbalanced((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Balance) -> tuple[Tensor, State]:
        return balance(state, evidence, ops.abs(evidence.losses), self.alpha, self.rate)
