"""SDMGrad: near the preferred direction, with weights found through two half batches."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import (
    Evidence,
    Integer,
    Method,
    Need,
    Preference,
    Range,
    Scale,
    State,
    Tensor,
    ops,
)
from polytape.linalg.preference import preferred
from polytape.linalg.simplex import carried, project, restricted


@dataclass(frozen=True)
class SDMGrad(Method):
    """Stochastic direction-oriented descent: min-norm weights, drawn to a preferred direction.

    Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
    Algorithms", NeurIPS 2023, Algorithm 1. With p the preference, and A = J_1 J_2^T from the
    gradients of the two halves of a batch, whose expectation is that of the true gradients,

        v <- A (x + regularization * p) + momentum * v,    x <- Proj(x - rate * v)

    on the probability simplex, `steps` times from the last x, v = 0; then
    w = (x + regularization * p) / (1 + regularization). A is divided by the squared mean of the
    roots of its diagonal, as in section 6.1.

    The diagonal of A may be negative, where noise outweighs the gradient; such entries count as
    zero in the division, and if all are, the weights stay as they are. J is the gradients of the
    whole batch, the mean of the halves, where the paper draws a third batch. An inactive
    objective keeps its share of x.

    Weights: at least regularization / (1 + regularization) of p, never negative. Degree 1 in the
    loss scale. Equal gradients: their sum. Opposed gradients: what is left of the preferred
    direction. A zero row is stationary by itself and gathers weight. T = 1: one.

    Args:
        regularization: 0.3, as in the paper's experiments (its lambda); 0: MGDA; the larger, the
            nearer to the preferred direction
        preference: p, one positive number per objective, rescaled to add up to one over the active
            objectives; None: equal, as in the paper
        rate: of the descent; 10, as in published code. So long a rate settles on vertices of the
            simplex, or between them, rather than converge
        momentum: of the descent; 0.5, as in published code
        steps: of the descent, in each step of training; 20, as in published code
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> pt.SDMGrad(regularization=0.6).steps
        20
    """

    regularization: Annotated[float, Range(0.0, open="high")] = 0.3
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    rate: Annotated[float, Range(0.0, open="low high")] = 10.0
    momentum: Annotated[float, Range(0.0, 1.0, open="high")] = 0.5
    steps: Annotated[int, Integer(1)] = 20
    scale: Scale = "sum"

    needs: ClassVar[Need] = "gramian"
    evidence: ClassVar[tuple[str, ...]] = ("half_batches",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Xiao, Ban and Ji, NeurIPS 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "an objective without a gradient is stationary and gathers weight",
        "permutation": "steps as long as the published ones break near-ties by rounding",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"share": np.full((*blocks, len(names)), 1 / len(names), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        active = evidence.active
        roots = ops.sqrt(ops.maximum(ops.diagonal(evidence["cross"], axis1=-2, axis2=-1), 0.0))
        unit = ops.sum(roots, axis=-1, keepdims=True) / evidence.count
        unit = ops.where(unit > 0, unit, 3e38)[..., None]
        matrix = evidence["cross"] / unit / unit
        pull = self.regularization * preferred(evidence, self.preference) / evidence.count

        def descend(step: Tensor, loop: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            del step
            share, velocity = loop
            # Not a matmul: accelerators may round its operands to fewer than 24 bits.
            slope = ops.sum(matrix * (share + pull)[..., None, :], axis=-1)
            velocity = slope + self.momentum * velocity
            return project(share - self.rate * velocity, active), velocity

        start = restricted(state["share"], active)
        share, _ = ops.fori_loop(0, self.steps, descend, (start, ops.zeros_like(start)))
        weights = (share + pull) / (1.0 + self.regularization)
        return weights, {"share": carried(state["share"], share, active)}
