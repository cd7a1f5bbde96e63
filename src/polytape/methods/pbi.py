"""PBI: along the ray of the preference, and back to it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Preference, Range, Scale, State, Tensor, ops
from polytape.linalg.direction import across, polar
from polytape.linalg.ideal import Point, above
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class PBI(Method):
    """Penalty-based boundary intersection: descent on d1 + penalty * d2.

    Zhang & Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE
    Transactions on Evolutionary Computation 2007. With u the unit vector of a preference and z an
    ideal point, d1 = (L - z)^T u is the distance travelled along the ray, d2 the distance from it.
    One backward pass in all. w = u + penalty * v, v the unit vector from the ray to L - z.

    Departs from published code on the ray, where d2 has no derivative: v is zero there, up to
    rounding, without an epsilon under the root.

    Weights: may be negative. A penalty raises losses that are below the ray; with 0 it is a
    weighted sum. Degree 1 in the loss scale, if the ideal point goes with it. Equal gradients of
    losses on the ray: their sum. Opposed gradients of equal length: the one with the larger weight
    wins. T = 1: one. A zero row takes part with its loss. Losses may be zero or negative.

    Args:
        penalty: theta; the paper's 5
        preference: one positive number per objective, only proportions count: losses minus the
            ideal point are driven to these proportions; None: equal
        ideal: z, one number per objective in units of its (weighted) loss; None (default): zero
        scale: "sum": equal gradients of losses on the ray get weights of one, on average. That is
            sqrt(m) times the paper's weights, m the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.PBI(), losses=[1.0, 2.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['-4.0000', '6.0000']
    """

    penalty: Annotated[float, Range(0.0, open="high")] = 5.0
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    ideal: Annotated[tuple[float, ...] | None, Point()] = None
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Zhang and Li, IEEE Transactions on Evolutionary Computation, 2007"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "it sees losses only: one without a gradient moves the others from the ray"
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        ray, _ = polar(preferred(evidence, self.preference))
        point, _ = polar(above(evidence, self.ideal))
        away, _ = polar(across(point, ray))
        return ops.sqrt(evidence.count) * (ray + self.penalty * away), state
