"""ExcessMTL: more weight to the objective with more loss left to lose."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Observed, Range, Scale, State, Tensor, ops
from polytape.linalg.reciprocal import reciprocal
from polytape.linalg.simplex import softmax

_FAR = 1e30  # apart, and no more, are the logarithms of two weights: one of them is zero long since


@dataclass(frozen=True)
class ExcessMTL(Method):
    """Weights that grow with the excess risk, read off the gradients of the past.

    He, Zhou, Zhang and Zhao, "Robust Multi-Task Learning with Excess Risks", ICML 2024. How far
    objective i is above its optimum is estimated with a diagonal Hessian, that of AdaGrad:

        S_i <- S_i + g_i^2,    e_i = sum g_i^2 / sqrt(S_i),    w_i <- w_i exp(rate e_i / e_i^first),

    squares, roots and quotients by coordinate, e_i^first the first e_i that was not zero; then w is
    rescaled. The update is the sum of w_i g_i. T backward passes. One array of T times the
    trainable variables is kept and saved with the model. Sparse gradients of embeddings
    are made dense.

    The 1e-7 beside S in published code is left out: where S is zero, so is the quotient. Logarithms
    of the weights are kept, so that no weight overflows or vanishes for good.

    Weights: positive. Degree 1 in the loss scale, and multiplying a single loss leaves its weight
    as it is. The first step: equal weights. Equal gradients: their sum. Opposed gradients: the
    difference of what their weights make of them. A zero row has no excess and loses weight to
    the others. An inactive objective keeps its statistics. T = 1: one. rank < T: no exception.

    Args:
        rate: step size of the weights; 0.01, as in the authors' training scripts (their README: 1)
        scale: "mean": weights add up to one; by default ("sum"), as in the authors' code, to the
            number of active objectives

    Example:
        >>> import polytape as pt
        >>> from polytape.testing import Trial
        >>> update = Trial(pt.ExcessMTL()).update(np.array([[1.0, 0.0], [0.0, 4.0]]), np.ones(2))
        >>> [float(w) for w in update.weights]
        [1.0, 1.0]
    """

    rate: Annotated[float, Range(0.0, open="low high")] = 0.01
    scale: Scale = "sum"

    needs: ClassVar[Need] = "rows"
    memory: ClassVar[tuple[str, ...] | None] = ("squares",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "He, Zhou, Zhang and Zhao, ICML 2024"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {"zero row": "without excess it still weighs something"}

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        shape = (*blocks, len(names))
        return {"first": np.zeros(shape, "float32"), "logarithms": np.zeros(shape, "float32")}

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        del evidence, state
        new = ops.square(rows)
        squares = memory["squares"] + new
        excess = ops.sum(new * reciprocal(ops.sqrt(squares)), axis=-1, keepdims=True)
        return Observed(rows, {"squares": squares}, excess)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        active = evidence.active
        excess = ops.sum(evidence["measures"], axis=-3)[..., 0]
        first = ops.where(ops.logical_and(active, state["first"] == 0), excess, state["first"])
        gain = ops.minimum(self.rate * (excess * reciprocal(first)), _FAR)
        logarithms = state["logarithms"] + ops.where(active, gain, 0.0)
        logarithms = logarithms - ops.max(logarithms, axis=-1, keepdims=True)
        logarithms = ops.maximum(logarithms, -_FAR)
        return softmax(logarithms, active), {"first": first, "logarithms": logarithms}
