"""TSCL: objectives whose losses change fastest weigh most."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.simplex import softmax

LARGEST = 1e30


@dataclass(frozen=True)
class TSCL(Method):
    """Teacher-student curriculum: what makes progress, or is being forgotten, weighs most.

    Matiisen, Oliver, Cohen and Schulman, "Teacher-Student Curriculum Learning", arXiv:1707.00183,
    2017, algorithm "online" with the Boltzmann policy, in the batch formulation, where the teacher
    says how much of each batch is of which task. One backward pass in all. With the score of an
    objective its negative loss and r_i = L_i(t - 1) - L_i(t) its change since the step before,

        Q_i <- rate r_i + (1 - rate) Q_i,    w = softmax(|Q| / temperature).

    Weights are never negative, and equal in the first step. Not homogeneous: changes are in units
    of the loss. Equal gradients: their sum. Opposed gradients: the one of the faster changing loss
    wins. A zero row keeps its weight. T = 1: one. Losses may have any sign; beyond 1e30 they count
    as 1e30. An inactive objective keeps its Q, and its next change is since it was last active.

    Args:
        rate: alpha, the share of the newest change in the average; the paper's 0.1.
        temperature: Of the softmax, in units of the loss; the higher, the closer to equal weights.
            0.1, ours: the paper's are for accuracies.
        scale: The paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives.

    Example:
        >>> import polytape as pt
        >>> method = pt.TSCL(rate=0.5, temperature=1.0, scale="paper")
        >>> weights, _ = pt.weigh(method, losses=[1.0, 1.0], previous=[3.0, 1.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.7311', '0.2689']
    """

    rate: Annotated[float, Range(0.0, 1.0, open="low")] = 0.1
    temperature: Annotated[float, Range(0.0, open="low high")] = 0.1
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    evidence: ClassVar[tuple[str, ...]] = ("previous_losses",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Matiisen, Oliver, Cohen and Schulman, arXiv:1707.00183, 2017"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "a softmax of changes in units of the loss is not homogeneous",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"progress": np.zeros((*blocks, len(names)), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        now, before = (
            ops.clip(losses, -LARGEST, LARGEST)
            for losses in (evidence.losses, evidence["previous"])
        )
        known = ops.logical_and(evidence.active, ops.logical_not(ops.isnan(evidence["previous"])))
        progress = self.rate * (before - now) + (1.0 - self.rate) * state["progress"]
        progress = ops.where(known, progress, state["progress"])
        weights = softmax(ops.abs(progress) / self.temperature, evidence.active)
        return weights, {"progress": progress}
