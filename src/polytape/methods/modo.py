"""MoDo: weights that follow the min-norm problem, seen through two half batches."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.simplex import carried, project, restricted


@dataclass(frozen=True)
class MoDo(Method):
    """Multi-objective descent with double sampling: one projected step of the weights per step.

    Chen, Fernando, Ying and Chen, "Three-Way Trade-Off in Multi-Objective Learning", NeurIPS 2023
    (JMLR 2024), eq. 2.9. With J_1, J_2 the gradients of the two halves of a batch,

        w <- Proj(w - gamma (J_1 J_2^T w + rho w)),

    Proj the projection on the probability simplex: a step towards the min-norm weights (MGDA) whose
    expectation is right, as the halves are independent, while that of a Gramian J J^T is not. The
    update is J^T w with the new w and J the gradients of the whole batch, the mean of the halves.

    The first step starts from equal weights. An inactive objective keeps its weight, and the
    others share what they had.

    Weights: never negative. Not homogeneous: gamma is a step size, so with tiny gradients the
    weights stay equal and with huge ones they jump; `Chain(Normalize(), MoDo())` brings every
    gradient to norm one first. Equal gradients: their sum. Opposed gradients: the weights drift to
    where they cancel out. A zero row gathers weight, as it is stationary by itself. T = 1: one.

    Args:
        gamma: step size, 0.1 as in published code, in units of 1 / gradient norm squared
        rho: pull towards equal weights, 0.1 as in published code
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> pt.MoDo(gamma=0.5)
        MoDo(gamma=0.5, rho=0.1, scale='sum')
    """

    gamma: Annotated[float, Range(0.0, open="low high")] = 0.1
    rho: Annotated[float, Range(0.0, open="high")] = 0.1
    scale: Scale = "sum"

    needs: ClassVar[Need] = "gramian"
    evidence: ClassVar[tuple[str, ...]] = ("half_batches",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Chen, Fernando, Ying and Chen, NeurIPS 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "gamma is a step size in units of gradients",
        "zero row": "an objective without a gradient is stationary and gathers weight",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"share": np.full((*blocks, len(names)), 1 / len(names), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        share = restricted(state["share"], evidence.active)
        # Not a matmul: accelerators may round its operands to fewer than 24 bits.
        slope = ops.sum(evidence["cross"] * share[..., None, :], axis=-1) + self.rho * share
        share = project(share - self.gamma * slope, evidence.active)
        return share, {"share": carried(state["share"], share, evidence.active)}
