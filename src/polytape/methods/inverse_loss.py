"""InverseLoss: every loss divided by what it was a step ago."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, State, Tensor, ops
from polytape.linalg.reciprocal import reciprocal


@dataclass(frozen=True)
class InverseLoss(Method):
    """Inverse previous loss: w_t is one over the value of L_t in the step before.

    The "prior loss" scheme of physics-informed codes (jinns). One backward pass in all. Up to noise
    it descends on the sum of log L_t, as `ScaleInvariant` does; the weight of a loss does not
    depend on the batch to which it is applied.

    Departs from published code in its epsilon of 1e-6, which would set a scale and is left out, and
    at the start: an objective seen for the first time is divided by its loss now, where the code
    begins with weights given by the user.

    Weights: never negative. Degree 0 in the loss scale, so there is no `scale`; multiplying a
    single loss, from the first step on, changes nothing at all. Equal gradients of equal losses:
    their sum over the loss. Opposed gradients of equal length: the one of the smaller loss wins. T
    = 1: the gradient over the previous loss. A zero row keeps its weight, without effect. A
    negative loss counts by its size; one of exactly zero is not remembered, so the last that was
    not zero counts (none: the weight is zero). An objective that is inactive keeps its last loss.

    Example:
        >>> import polytape as pt
        >>> _, state = pt.weigh(pt.InverseLoss(), losses=[0.5, 4.0])
        >>> weights, _ = pt.weigh(pt.InverseLoss(), losses=[0.1, 8.0], state=state)
        >>> [float(w) for w in weights]
        [2.0, 0.25]
    """

    needs: ClassVar[Need] = "losses"
    reference: ClassVar[str] = "jinns (Gangloff and Jouvin, 2024)"
    guarantees: ClassVar[frozenset[str]] = frozenset({"impartial", "permutation", "scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"last": np.zeros((*blocks, len(names)), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        size, last = ops.abs(evidence.losses), state["last"]
        weights = reciprocal(ops.where(last > 0, last, size))
        return weights, {"last": ops.where(size > 0, size, last)}
