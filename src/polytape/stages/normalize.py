"""Equal say for every objective, whatever its scale."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, OneOf, State, Tensor, ops


@dataclass(frozen=True)
class Normalize(Method):
    """Rows divided by their own size: `by="l2"` by the gradient norm, `by="loss"` by the loss.

    As a stage of a chain, the next stage sees unit rows (or gradients of log-losses); alone, it is
    the sum of the normalised gradients, and `Chain(Normalize(), Mean())` their average. Under
    `PerVariable` each variable's part of a row is normalised on its own, as `l2_normalize` of every
    tensor does.

    Weights: 1 / ||g_t|| or 1 / |L_t|, never negative. Degree 0 in the loss scale. A zero row or a
    loss of zero keeps weight one. T = 1: the unit gradient.

    Args:
        by: what a row is divided by: "l2", its norm, or "loss", the size of its loss

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.Normalize(), [[4.0, 0.0], [0.0, 0.25]])
        >>> [float(w) for w in weights]
        [0.5, 2.0]
    """

    by: Annotated[str, OneOf(("l2", "loss"))] = "l2"

    reference: ClassVar[str] = "Chen et al. 2018 (GradNorm) discuss it; folklore"
    exempt: ClassVar[dict[str, str]] = {"scale": "degree 0: that is its purpose"}

    @property
    def needs(self) -> Need:  # type: ignore[override]
        return "gramian" if self.by == "l2" else "losses"

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        size = evidence.norms if self.by == "l2" else ops.absolute(evidence.losses)
        return ops.where(size > 0, 1.0 / ops.where(size > 0, size, 1.0), 1.0), state
