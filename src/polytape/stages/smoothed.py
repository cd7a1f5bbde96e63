"""Weights that move slowly."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Range, State, Tensor, evaluate, ops
from polytape.stages.global_clip import refuse_rows


@dataclass(frozen=True)
class Smoothed(Method):
    """Moving average of another method's weights (CR-MOGM).

    Source: Zhou et al. 2022, "On the Convergence of Stochastic Multi-Objective Gradient
    Manipulation and Beyond": lambda_t = decay lambda_{t-1} + (1 - decay) lambda_hat_t, started at
    the first step's weights. `decay` 0.9 is the paper's. An objective that is inactive in a step
    keeps its average.

    Args:
        inner: the method that is wrapped
        decay: share of the past in the average; the paper's 0.9

    Example:
        >>> import polytape as pt
        >>> method = pt.Smoothed(pt.Normalize(), decay=0.5)
        >>> weights, state = pt.weigh(method, [[4.0]])
        >>> weights, state = pt.weigh(method, [[1.0]], state=state)
        >>> float(weights[0])
        0.75
    """

    inner: Method
    decay: Annotated[float, Range(0, 1, open="high")] = 0.9

    reference: ClassVar[str] = "Zhou et al. 2022, NeurIPS"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_rows(self, self.inner)

    @property
    def needs(self) -> Need:  # type: ignore[override]
        return self.inner.needs

    @property
    def scope(self) -> str | None:
        return self.inner.scope

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        shape = (*blocks, len(names))
        return {
            "inner": self.inner.init(names, blocks),
            "weights": np.zeros(shape, "float32"),
            "seen": np.zeros(shape, "bool"),
        }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        fresh, inner = evaluate(self.inner, evidence, state["inner"])
        last = ops.where(state["seen"], state["weights"], fresh)
        active = ops.broadcast_to(evidence.active, fresh.shape)
        weights = ops.where(active, self.decay * last + (1 - self.decay) * fresh, state["weights"])
        seen = ops.logical_or(state["seen"], active)
        return weights, {"inner": inner, "weights": weights, "seen": seen}
