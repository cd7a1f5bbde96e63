"""GradNorm: weights trained towards gradients of similar norm and losses that fall at one rate."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Range, Scale, State, Tensor
from polytape.linalg.training_rates import Balance, balance, unbalanced


@dataclass(frozen=True)
class GradNorm(Method):
    """Gradient normalization: objectives that are behind pull harder.

    Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
    Networks", ICML 2018, eq. 2 and Algorithm 1. With G_t = w_t |g_t|, their mean G, and the inverse
    training rate r_t = (L_t / L_t(0)) / mean(L / L(0)), the weights are trained to lower
    sum_t |G_t - G r_t^alpha|, the second term held fixed, and add up to the number of active
    objectives after each step. T backward passes.

    Gradients are those over the shared variables, or over those of each scope (`PerVariable`,
    `PerNetwork`); the paper takes the last shared layer. L(0) is the loss when an objective is
    first active. In the paper w also weighs private variables: `private="weighted"`.

    Departs from the paper in how a step is applied: it is multiplied onto the weights (log w moves
    by what Adam answers to the paper's gradient), not added, so they stay positive and a small one
    is as exact as a large one. Some published codes turn the exponent around, differentiate the
    target too, or take the loss of the last step for L(0).

    Weights: positive; one each at the start. They do not change when all losses are multiplied by a
    number: degree 1. Equal gradients of losses that fall at one rate: their sum. Opposed gradients:
    in the end the slower loss wins. T = 1: one. A zero row keeps its weight and counts in no mean.
    An objective whose first loss was not positive counts as unchanged. An inactive objective keeps
    its place among the weights.

    Args:
        alpha: how strongly an objective that falls slowly is favoured; 0 makes all norms equal. The
            paper tunes it between 0.12 and 1.5; 1.5, as in published code, is our default
        rate: of the Adam that trains the weights, one step in each step of training; the paper's
            0.025
        scale: "sum" is the paper's

    Example:
        >>> import polytape as pt
        >>> method = pt.GradNorm(rate=0.5)
        >>> gramian = [[1.0, 0.0], [0.0, 4.0]]
        >>> _, state = pt.weigh(method, gramian)
        >>> weights, _ = pt.weigh(method, gramian, state=state)
        >>> [f"{float(w):.3f}" for w in weights]
        ['1.462', '0.538']
    """

    alpha: Annotated[float, Range(0.0, open="high")] = 1.5
    rate: Annotated[float, Range(0.0, 1e6)] = 0.025
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Chen, Badrinarayanan, Lee and Rabinovich, ICML 2018"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Balance:
        return unbalanced((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Balance) -> tuple[Tensor, State]:
        return balance(state, evidence, evidence.norms, self.alpha, self.rate)
