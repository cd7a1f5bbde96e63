"""GO4Align: objectives in groups, one weight for each group."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Integer, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.clusters import cluster_means
from polytape.linalg.simplex import softmax


@dataclass(frozen=True)
class GO4Align(Method):
    """Group optimisation: objectives of similar risk share a weight, small losses weigh more.

    Shen, Wang, Xiao, Van Noord and Worring, "GO4Align: Group Optimization for Multi-Task
    Alignment", NeurIPS 2024; the formula is that of the authors' code. One backward pass in all. In
    each step

        p_i <- p_i exp(-rate L_i) / sum_j p_j exp(-rate L_j),    u_i = p_i sum_j L_j / L_i,

    with p equal at first; the u_i are put into groups by k-means, and the weight of an objective is
    the mean of its group.

    Departs from that code in the k-means, there from random starts: the groups here are the best
    ones, and the same for the same losses.

    Weights: never negative. p depends on the unit of the losses: not homogeneous. Equal losses, and
    so equal gradients of them, give their sum. Opposed gradients: the one of the smaller loss wins,
    unless both share a group. A zero row keeps its weight. T = 1: one. Losses must be positive to
    have an inverse: an objective whose loss is zero or negative joins no group in that step and
    weighs one. An inactive objective keeps its p as it is, in proportion.

    Args:
        groups: number of groups; default 2, ours (the paper chooses it per data set). One: all
            weights are equal. T or more: no grouping
        rate: step size of p, 1e-4 as in the authors' code
        scale: "sum": weights of equal losses are one each, as in the authors' code

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.GO4Align(rate=0.0), losses=[1.0, 2.0, 8.0, 9.0])
        >>> [f"{float(w):.2f}" for w in weights]
        ['5.00', '1.23', '1.23', '1.23']
    """

    groups: Annotated[int, Integer(1)] = 2
    rate: Annotated[float, Range(0.0, open="high")] = 1e-4
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Shen, Wang, Xiao, Van Noord and Worring, NeurIPS 2024"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "an exponential of losses is not homogeneous",
        "zero row": "it never looks at a gradient, and every loss counts in all weights",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"logits": np.zeros((*blocks, len(names)), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        losses = evidence.losses
        positive = ops.logical_and(evidence.active, losses > 0)
        # Only differences count; those beyond 1e4 stand for a probability of zero in any case.
        logits = state["logits"] - ops.clip(self.rate * losses, -1e4, 1e4)
        logits = ops.maximum(logits - ops.max(logits, axis=-1, keepdims=True), -1e4)
        largest = ops.max(ops.where(positive, losses, 0.0), axis=-1, keepdims=True)
        share = ops.where(positive, losses / ops.where(largest > 0, largest, 1.0), 0.0)
        balanced = ops.sum(share, axis=-1, keepdims=True) / ops.maximum(share, 1e-30)
        balanced = ops.where(positive, softmax(logits, positive) * balanced, 0.0)
        weights = ops.where(positive, cluster_means(balanced, positive, self.groups), 1.0)
        return weights, {"logits": logits}
