"""GradVac: gradients are brought as close to each other as they used to be."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Range, Scale, State, Tensor, ops
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.methods.pcgrad import random_order

_SINE = 1e-3  # least sine of a target angle, and one over the length at which a row meets no more
_GONE = 1e-3  # a row of this share of its parts is round-off


def vaccinate(
    form: CosineForm, targets: Tensor, order: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Weights (..., T) of the sum of all rows, after each has met the others, and next targets.

    targets  (..., T, T)  cosine that row i should have with row j, at least
    order    (..., T, T)  integers; row i lists the objectives in the order in which i meets them,
                          itself included, which is skipped
    """
    count = form.norms.shape[-1]
    own = ops.eye(count)
    pairs = ops.logical_and(form.alive[..., :, None], form.alive[..., None, :])

    def meet(k: Tensor, loop: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        rows, pulls, targets = loop
        other = ops.take(order, k, axis=-1)
        chosen = ops.cast(ops.logical_and(ops.one_hot(other, count) > own, pairs), "float32")
        met = ops.take_along_axis(form.cosines, other[..., None], axis=-2)
        square = ops.sum(rows * pulls, axis=-1, keepdims=True)
        length = ops.sqrt(ops.maximum(square, 0.0))
        left = length > _GONE * ops.sum(ops.abs(rows), axis=-1, keepdims=True)
        chosen = ops.where(left, chosen, 0.0)
        product = ops.sum(chosen * pulls, axis=-1, keepdims=True)
        found = ops.clip(product / ops.where(left, length, 1.0), -1.0, 1.0)
        target = ops.sum(chosen * targets, axis=-1, keepdims=True)
        sine = ops.maximum(_sine(target), _SINE)
        turn = ops.where(found < target, length * (target * _sine(found) / sine - found), 0.0)
        step = chosen * ops.where(length < 1.0 / _SINE, turn, 0.0)
        pulls = pulls + ops.sum(step, axis=-1, keepdims=True) * met
        return rows + step, pulls, targets + chosen * beta * (found - targets)

    # rows[i] holds the coefficients of row i, in units of its length, on rows of length one;
    # pulls[i] the inner products of row i with all these.
    start = (ops.zeros_like(form.cosines) + own, form.cosines, targets)
    rows, _, targets = ops.fori_loop(0, count, meet, start)
    return ops.sum(rows * form.norms[..., :, None], axis=-2) / form.norms, targets


def _sine(cosine: Tensor) -> Tensor:
    return ops.sqrt(ops.maximum(1.0 - ops.square(cosine), 0.0))


@dataclass(frozen=True)
class GradVac(Method):
    """Gradient vaccine: rows less similar than usual are turned until they are as similar.

    Wang, Tsvetkov, Firat and Cao, "Gradient Vaccine: Investigating and Improving Multi-task
    Optimization in Massively Multilingual Models", ICLR 2021, Algorithm 1. Each pair has a target
    cosine a_ij, at first zero. For each i, start from g = g_i and visit the other j in random
    order: with f the cosine of g and g_j, wherever f < a_ij add

        |g| / |g_j| * (a_ij sqrt(1 - f^2) - f sqrt(1 - a_ij^2)) / sqrt(1 - a_ij^2) * g_j,

    after which the cosine is a_ij; then a_ij <- (1 - beta) a_ij + beta f. The update is the sum of
    what becomes of all rows. T backward passes.

    The f that enters the target is the one before the addition, of the row as it is by then: so
    says the algorithm of the paper, and so do LibMTL and TorchJD. One target per pair and scope:
    wrap in `PerVariable` or `PerNetwork` for one in each, as in the paper's experiments.

    Departs from the formula where it is unbounded: the sine of a target angle counts as 1e-3 at
    least, and a row that has grown to a thousand times its length meets no more. A row of which
    nothing but rounding is left has no angle: it is left as it is, and so are its targets.

    Weights: at least one, never negative. Degree 1 in the loss scale. Equal gradients: their sum.
    Opposed gradients: zero, while the target is. The first step is that of PCGrad. T = 1: one. A
    zero row, and an inactive objective, changes nothing and keeps its targets. rank < T: no
    exception.

    Args:
        beta: how fast targets follow; 0.01 as in the paper (0.5 in LibMTL and TorchJD). 0 keeps
            them at zero: `PCGrad`
        scale: "sum" is the paper's

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.GradVac(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['2.0000', '1.2500']
    """

    beta: Annotated[float, Range(0.0, 1.0)] = 0.01
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Wang, Tsvetkov, Firat and Cao, ICLR 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "permutation": "with more than two rows the result depends on the order drawn",
        "zero row": "another number of objectives draws another order",
        "inactive": "another number of objectives draws another order",
        "batch": "each block draws its own order",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"targets": np.zeros((*blocks, len(names), len(names)), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        form = cosine_form(evidence.gramian, evidence.active)
        order = random_order(tuple(form.cosines.shape), evidence.seed)
        weights, targets = vaccinate(form, state["targets"], order, self.beta)
        return weights, {"targets": targets}
