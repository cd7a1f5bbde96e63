"""The mean of the losses."""

from dataclasses import dataclass
from typing import ClassVar

from polytape.contract import Evidence, Method, Need, State, Tensor, ops


@dataclass(frozen=True)
class Mean(Method):
    """The mean of the losses: every weight is one over the number of active objectives.

    One backward pass in all. The same direction as `Sum`, shorter by the number of objectives
    that take part this step.

    Weights: equal, never negative, adding up to one. Degree 1 in the loss scale. Equal gradients:
    their mean, whence no `scale` field (the mean on the scale of the sum is `Sum`). Opposed
    gradients cancel. A zero row counts as an objective. T = 1: the gradient itself.

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.Mean(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [float(w) for w in weights]
        [0.5, 0.5]
    """

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(evidence.losses) / evidence.count, state
