"""MinMax: trained weights that seek the worst mixture of losses."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.adam import Trained, untrained
from polytape.linalg.simplex import softmax


@dataclass(frozen=True)
class MinMax(Method):
    """Self-adaptive min-max weights: the network lowers what the weights raise.

    McClenny & Braga-Neto, "Self-Adaptive Physics-Informed Neural Networks", Journal of
    Computational Physics 2023: a saddle point of sum_t w_t L_t, the least over the network and the
    largest over w. As in the comparison of Liu et al. (ConFIG), ICLR 2025, with one weight per
    loss, w = T softmax(s), and s trained by Adam. One backward pass in all.

    Departs from McClenny & Braga-Neto, whose weights belong to single points of a loss, rise
    without bound and so change the rate of the network.

    Weights: positive; one each at the start. They do not change when all losses are multiplied by a
    number: degree 1. Equal gradients: their sum. Opposed gradients of equal length: in the end the
    one of the larger loss wins. T = 1: one. A zero row takes part with its loss: if it stays the
    largest it ends with all the weight. An inactive objective keeps s. Losses may be zero or
    negative.

    Args:
        rate: of the Adam that raises s, one step in each step of training; s starts at zero.
            Default 1e-3, that of the comparison
        scale: "sum" is the published one: weights add up to the number of active objectives

    Example:
        >>> import polytape as pt
        >>> method = pt.MinMax(rate=0.5)
        >>> _, state = pt.weigh(method, losses=[1.0, 10.0])
        >>> weights, _ = pt.weigh(method, losses=[1.0, 10.0], state=state)
        >>> [f"{float(w):.3f}" for w in weights]
        ['0.538', '1.462']
    """

    rate: Annotated[float, Range(0.0, 1e6)] = 1e-3
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "McClenny and Braga-Neto, Journal of Computational Physics, 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Trained:
        return untrained((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Trained) -> tuple[Tensor, State]:
        share = softmax(state.value, evidence.active)
        part = share * evidence.losses
        gradient = share * ops.sum(part, axis=-1, keepdims=True) - part
        return evidence.count * share, state.descended(gradient, self.rate, evidence.active)
