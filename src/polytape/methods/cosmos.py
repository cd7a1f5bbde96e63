"""COSMOS: a weighted sum, and a pull of the losses towards the ray of the preference."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Preference, Range, Scale, State, Tensor, ops
from polytape.linalg.direction import across, polar
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class COSMOS(Method):
    """Descent on r^T L - penalty * cos(r, L), with r a preference.

    Ruchte & Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM
    2021. With u and v the unit vectors of r and L, the gradient of the function is w = r - (penalty
    / |L|) (u - cos(r, L) v). One backward pass in all.

    Departs from the paper in the preference, which is constant. There it is drawn from a Dirichlet
    distribution in every step and is also an input of the network, which so learns a whole front.

    Weights: may be negative, once losses are far from the ray or small against the penalty: the
    update then raises a loss. Of no degree in the loss scale, for the penalty has a unit. Equal
    gradients of losses on the ray, where the angle is zero: their sum. Opposed gradients of equal
    length: the one with the larger weight wins. T = 1: one. A zero row takes part with its loss.
    Losses may be negative; if all are zero there is no angle, and w = r.

    Args:
        penalty: of the angle between the vector of losses and the preference, in units of a loss;
            the paper tunes it between 0.01 and 8 and has no default, 1 is ours
        preference: r, one positive number per objective, rescaled to add up to one over the active
            objectives; None: equal
        scale: the paper's r adds up to one ("mean"); by default ("sum") the weights are multiplied
            by the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.COSMOS(scale="mean"), losses=[3.0, 4.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.4774', '0.5170']
    """

    penalty: Annotated[float, Range(0.0, open="high")] = 1.0
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Ruchte and Grabocka, ICDM 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "the penalty has the unit of a loss",
        "zero row": "it sees losses only: one without a gradient turns the angle",
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        wish = preferred(evidence, self.preference) / evidence.count
        ray, _ = polar(wish)
        point, length = polar(evidence.losses)
        turn = ops.where(length > 0, across(ray, point), 0.0)
        return wish - self.penalty * turn / ops.maximum(length, 1e-30), state
