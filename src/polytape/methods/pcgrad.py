"""PCGrad: each gradient loses what conflicts with the others."""

from dataclasses import dataclass
from typing import ClassVar

from polytape.contract import Evidence, Method, Scale, Seed, State, Tensor, ops
from polytape.linalg.cosine import cosine_form


def project(cosines: Tensor, norms: Tensor, order: Tensor) -> Tensor:
    """Weights (..., T) of the sum of all rows, each projected on the others in a given order.

    order  (..., T, T)  integers; row i lists the objectives in the order in which i meets them,
                        itself included, which is skipped
    """
    count = cosines.shape[-1]
    own = ops.eye(count)

    def meet(k: Tensor, rows: Tensor) -> Tensor:
        other = ops.take(order, k, axis=-1)
        chosen = ops.one_hot(other, count)
        met = ops.take_along_axis(cosines, other[..., None], axis=-2)
        product = ops.sum(rows * met, axis=-1, keepdims=True)
        return rows - chosen * (1.0 - own) * ops.minimum(product, 0.0)

    # rows[i] holds the coefficients of row i, in units of its length, on rows of length one.
    rows = ops.fori_loop(0, count, meet, ops.zeros_like(cosines) + own)
    return ops.sum(rows * norms[..., :, None], axis=-2) / norms


def random_order(shape: tuple[int, ...], seed: Seed) -> Tensor:
    """A random order of the objectives for each of them, (..., T, T) integers."""
    return ops.argsort(ops.uniform(shape, seed), axis=-1)


@dataclass(frozen=True)
class PCGrad(Method):
    """Projecting conflicting gradients: each row is projected off those that it conflicts with.

    Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1. For each i,
    start from g = g_i and visit the other j in random order: wherever <g, g_j> < 0, subtract
    <g, g_j> / |g_j|^2 * g_j. The update is the sum of what is left of all rows. T backward passes.

    The order is drawn afresh for each i in each step. As in the paper, and unlike several
    published codes, row i itself is never visited (with three objectives a visit can trigger one
    projection more) and the update is the sum, not the mean.

    Weights: at least one, never negative. Degree 1 in the loss scale. Without conflicts: the sum,
    so equal gradients give their sum. Opposed gradients: zero. T = 2: the order does not matter
    and w = 1 - min(0, <g_1, g_2>) / (|g_1|^2, |g_2|^2). T = 1: one. For T > 2 the update may still
    conflict with some row. A zero row changes nothing and has weight one. rank < T: no exception.

    Args:
        scale: "sum" is the paper's

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.PCGrad(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [float(w) for w in weights]
        [2.0, 1.25]
    """

    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Yu, Kumar, Gupta, Levine, Hausman and Finn, NeurIPS 2020"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "permutation": "with more than two rows the result depends on the order drawn",
        "zero row": "another number of objectives draws another order",
        "inactive": "another number of objectives draws another order",
        "batch": "each block draws its own order",
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        form = cosine_form(evidence.gramian, evidence.active)
        shape = tuple(form.cosines.shape)
        if shape[-1] <= 2:  # there is one order only
            order = ops.broadcast_to(ops.arange(shape[-1]), shape)
        else:
            order = random_order(shape, evidence.seed)
        return project(form.cosines, form.norms, order), state
