"""DBMTL: averaged gradients of log-losses, all brought to the length of the longest."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Observed, Range, State, Tensor, ops
from polytape.linalg.average import Average
from polytape.linalg.reciprocal import reciprocal


@dataclass(frozen=True)
class DBMTL(Method):
    """Dual balancing: gradients of log-losses, averaged over steps, made as long as the longest.

    Lin et al., "Dual-Balancing for Multi-Task Learning", 2023 (arXiv 2308.12029). With
    h_i the exponential moving average of the gradients of log L_i, of decay
    beta_t = decay / t^power in step t = 1, 2, ..., the update is

        sum_i (max_j ||h_j|| / ||h_i||) h_i.

    T backward passes. One array of T times the trainable variables is kept and saved with the
    model. Sparse gradients of embeddings are made dense.

    The averages here start without bias: the published ones, which start at zero, give the same
    update times a factor that tends to one, as long as all objectives take part in every step.
    Private variables take, as everywhere in this library, the gradient of their own loss, where the
    paper takes that of its logarithm: `pt.Chain(pt.ScaleInvariant(), pt.DBMTL(log=False))` does so.
    The paper's 1e-8 beside the loss is left out.

    Weights belong to the averages: positive, one for the longest. Degree 0 in the loss scale (1
    with `log=False`); multiplying a single loss changes nothing (with `log=False` the length).
    Equal gradients of equal losses: their sum over the loss. Opposed gradients: zero. A zero
    average weighs zero. A negative loss counts by its size; one of exactly zero has no logarithm,
    and its gradient enters the average as zero. An inactive objective keeps its average. T = 1: the
    average itself. rank < T: no exception.

    Args:
        decay: of the average; 0.9, as in the authors' code; 0 keeps nothing
        power: how fast the decay vanishes; 0 (not at all), as in the authors' code
        log: whether to take gradients of logarithms, g_i / L_i, as published; False leaves losses
            as they are

    Example:
        >>> import polytape as pt
        >>> from polytape.testing import Trial
        >>> rows, losses = np.array([[1.0, 0.0], [0.0, 8.0]]), np.array([1.0, 2.0])
        >>> update = Trial(pt.DBMTL()).update(rows, losses)
        >>> [float(w) for w in update.weights], [float(x) for x in update.direction]
        ([4.0, 1.0], [4.0, 4.0])
    """

    decay: Annotated[float, Range(0.0, 1.0, open="high")] = 0.9
    power: Annotated[float, Range(0.0, open="high")] = 0.0
    log: bool = True

    needs: ClassVar[Need] = "rows"
    memory: ClassVar[tuple[str, ...] | None] = ("total",)
    reference: ClassVar[str] = "Lin, Jiang, Ye, Zhang, Chen, Chen, Liu and Kwok, 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"impartial", "permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"weight": np.zeros((*blocks, len(names)), "float32")}

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        if self.log:
            rows = rows * reciprocal(ops.abs(evidence.losses))[..., None]
        average = Average(memory["total"], state["weight"][..., None])
        average = average.after(rows, self._decay(evidence), evidence.active[..., None])
        return Observed(average.mean, {"total": average.total})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        weight = Average(state["weight"], state["weight"])
        weight = weight.after(ops.ones_like(weight.total), self._decay(evidence), evidence.active)
        longest = ops.max(evidence.norms, axis=-1, keepdims=True)
        return longest * reciprocal(evidence.norms), {"weight": weight.weight}

    def _decay(self, evidence: Evidence) -> Any:
        return self.decay / ops.cast(evidence.step + 1, "float32") ** self.power
