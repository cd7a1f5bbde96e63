"""LRAnnealing: weights from the absolute values of the entries of the gradients."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Observed, OneOf, Range, State, Tensor, ops
from polytape.linalg.ratio import ratio


@dataclass(frozen=True)
class LRAnnealing(Method):
    """Learning-rate annealing: entries of every gradient as large as the largest of the reference.

    Wang, Teng and Perdikaris, "Understanding and Mitigating Gradient Flow Pathologies in
    Physics-Informed Neural Networks", SIAM Journal on Scientific Computing 2021, Algorithm 1. For
    the reference r (the residual of the equation) and every other objective i,

        w_i <- decay w_i + (1 - decay) max|g_r| / mean|g_i|,    w_r = 1,

    the maximum and the mean over all entries of the shared variables. Weights start at one. T
    backward passes; nothing but the weights is kept. Sparse gradients of embeddings
    are made dense.

    Means are taken over the whole model, as the paper's formula says, each tensor in proportion to
    its size; published codes average the means of the tensors. g_i is the gradient of the loss
    without its own w_i.

    Weights: positive. Degree 1 in the loss scale; the weights depend on how many entries the
    gradients have and on how they are spread, so weights of equal gradients are not one and there
    is no `scale`. Opposed gradients: the other than the reference wins. A zero row keeps its
    weight, as does an inactive objective; where the reference is zero or inactive, all keep theirs.
    T = 1: one. rank < T: no exception.

    Args:
        reference_objective: name of r; None: the first objective
        statistic: of the reference: "max" (the paper, default) or "mean" (mean|g_r|, a published
            variant)
        decay: of the moving average; 0.9, as in the authors' code. Their text writes the share of
            the new value, alpha, and recommends 0.9 for it

    Example:
        >>> import polytape as pt
        >>> from polytape.testing import Trial
        >>> method = pt.LRAnnealing(decay=0.0)
        >>> update = Trial(method).update(np.array([[3.0, -5.0], [0.5, -1.5]]), np.ones(2))
        >>> [float(w) for w in update.weights]
        [1.0, 5.0]
    """

    reference_objective: str | None = None
    statistic: Annotated[str, OneOf(("max", "mean"))] = "max"
    decay: Annotated[float, Range(0.0, 1.0, open="high")] = 0.9

    needs: ClassVar[Need] = "rows"
    memory: ClassVar[tuple[str, ...] | None] = ()
    reference: ClassVar[str] = "Wang, Teng and Perdikaris, SIAM J. Sci. Comput. 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    exempt: ClassVar[dict[str, str]] = {"permutation": "one objective is the reference"}

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        known = self.reference_objective
        if known is not None and known not in names:
            raise ValueError(
                f"LRAnnealing(reference_objective={known!r}): no objective of that name. "
                f"Objectives: {', '.join(map(repr, names))}."
            )
        return {"weights": np.ones((*blocks, len(names)), "float32")}

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        del evidence, state
        size = ops.abs(rows)
        largest, total = ops.max(size, axis=-1), ops.sum(size, axis=-1)
        count = ops.full_like(total, rows.shape[-1])
        return Observed(rows, memory, ops.stack([largest, total, count], axis=-1))

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        named = self.reference_objective
        index = 0 if named is None else evidence.names.index(named)
        largest, total, count = ops.unstack(evidence["measures"], axis=-1)
        largest = ops.max(largest, axis=-2)
        mean = ops.sum(total, axis=-2) / ops.sum(count, axis=-2)
        goal = (largest if self.statistic == "max" else mean)[..., index : index + 1]
        weights = self.decay * state["weights"] + (1.0 - self.decay) * ratio(goal, mean)
        known = ops.logical_and(evidence.active, ops.logical_and(mean > 0, goal > 0))
        others = np.arange(len(evidence.names)) != index
        weights = ops.where(ops.logical_and(known, others), weights, state["weights"])
        return weights, {"weights": weights}
