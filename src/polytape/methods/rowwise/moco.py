"""MoCo: min-norm weights that follow gradients averaged over steps."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Observed, Range, Scale, State, Tensor, ops
from polytape.linalg.average import Average
from polytape.linalg.simplex import carried, project, restricted


@dataclass(frozen=True)
class MoCo(Method):
    """Stochastic multi-objective gradient correction: averages track the gradients.

    Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent
    Approach", ICLR 2023, Algorithm 1. In step t = 1, 2, ... with Y the rows y_i,

        y_i <- y_i - beta_t (y_i - g_i),    w <- Proj(w - gamma_t (Y Y^T + rho I) w),

    Proj the projection on the probability simplex, beta_t = beta / t^power and
    gamma_t = gamma / t^power. The update is Y^T w: a step towards the min-norm weights (MGDA) of
    gradients of less noise. T backward passes. One array of T times the trainable variables is kept
    and saved with the model. Sparse gradients of embeddings are made dense.

    The first y is an input of the published algorithm. Here the average starts without bias: after
    the first step it is the first gradient. The first w is equal weights. An inactive
    objective keeps its tracker and its weight, and the others share what they had.

    Weights belong to the trackers: never negative. Not homogeneous: gamma is a step size, so with
    tiny gradients the weights stay equal and with huge ones jump to a single objective. Equal
    gradients: their sum. A zero row takes weight from the others. Opposed gradients of equal
    length: zero. T = 1: the tracker itself. rank < T: no exception.

    Args:
        beta: share of the new gradient in the tracker, 0.5
        gamma: step size of the weights, 0.1, in units of 1 / gradient norm squared
        power: of the decay of both; 0.5: all three as in the authors' code
        rho: pull towards equal weights; 0, as in the authors' code
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> from polytape.testing import Trial
        >>> update = Trial(pt.MoCo(scale="mean")).update(np.array([[1.0, 0], [0, 2.0]]), np.ones(2))
        >>> [f"{float(w):.3f}" for w in update.weights]
        ['0.575', '0.425']
    """

    beta: Annotated[float, Range(0.0, 1.0, open="low")] = 0.5
    gamma: Annotated[float, Range(0.0, open="low high")] = 0.1
    power: Annotated[float, Range(0.0, open="high")] = 0.5
    rho: Annotated[float, Range(0.0, open="high")] = 0.0
    scale: Scale = "sum"

    needs: ClassVar[Need] = "rows"
    memory: ClassVar[tuple[str, ...] | None] = ("total",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Fernando, Shen, Liu, Chaudhury, Murugesan and Chen, ICLR 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "gamma is a step size in units of gradients",
        "zero row": "towards the min-norm point, which is the zero row",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        shape = (*blocks, len(names))
        return {
            "seen": np.zeros(shape, "float32"),
            "weights": np.full(shape, 1.0 / len(names), "float32"),
        }

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        average = Average(memory["total"], state["seen"][..., None])
        decay = 1.0 - self._at(self.beta, evidence)
        average = average.after(rows, decay, evidence.active[..., None])
        return Observed(average.mean, {"total": average.total})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        active = evidence.active
        decay = 1.0 - self._at(self.beta, evidence)
        seen = ops.where(active, decay * state["seen"] + (1.0 - decay), state["seen"])
        weights = restricted(state["weights"], active)
        slope = ops.sum(evidence.gramian * weights[..., None, :], axis=-1) + self.rho * weights
        weights = project(weights - self._at(self.gamma, evidence) * slope, active)
        return weights, {"seen": seen, "weights": carried(state["weights"], weights, active)}

    def _at(self, rate: float, evidence: Evidence) -> Any:
        return rate / ops.cast(evidence.step + 1, "float32") ** self.power
