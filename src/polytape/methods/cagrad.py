"""CAGrad: the update near the mean gradient that helps the worst objective most."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, OneOf, Preference, Range, Scale, State, Tensor
from polytape.linalg.max_min import max_min_correction
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class CAGrad(Method):
    """Conflict-averse gradient descent: the best for the worst objective, not far from the mean.

    Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, Algorithm
    1. Of all d with |d - g_0| <= c |g_0|, g_0 the mean gradient, the one with the largest
    min_t <g_t, d>. It is g_0 + c |g_0| g_w / |g_w|, where g_w = J^T w and w minimises
    <g_w, g_0> + c |g_0| |g_w| over w >= 0, sum(w) = 1. T backward passes.

    The problem is solved to float32 precision as a chain of non-negative quadratic programmes,
    where published codes take SciPy's general minimiser on the host, or some steps of gradient
    descent on w; nothing is added to |g_w|, and no gradient is too short to count.

    Weights: never negative, at least p_t. Degree 1 in the loss scale. Equal gradients: their sum,
    times 1 + c with `rescale=0`. Opposed gradients a and -b a, b > 1: the plain sum times
    (1 - c) / (1 + c), for c < 1. A zero row gains nothing whatever is done, so it is left out of
    the minimum and has weight p_t. T = 1: one (1 + c with `rescale=0`). Where J^T w = 0 is optimal
    the formula of the paper is 0 / 0: the mean is then corrected just as far as it helps. rank < T:
    the update is unique, weights are about the smallest.

    Args:
        c: radius of the ball. 0 is the mean; with c < 1 the mean loss still converges; the larger,
            the nearer to the direction of MGDA. The paper's experiments use 0.4 and more; 0.5, our
            default, is LibMTL's
        rescale: what the update is divided by: 0 nothing, as in the paper; 1 the 1 + c^2 of
            published code; 2 (default) 1 + c, after which equal gradients give their mean, so that
            a learning rate keeps its meaning
        preference: p, one positive number per objective: g_0 is the mean with these weights; None:
            equal, as in the paper
        scale: the paper's g_0 is the mean ("mean"); by default ("sum") weights are multiplied by
            the number of active objectives, as in the code of the paper

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.CAGrad(), [[1.0, 0.0], [0.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['1.4120', '0.6667']
    """

    c: Annotated[float, Range(0.0, open="high")] = 0.5
    rescale: Annotated[int, OneOf((0, 1, 2))] = 2
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Liu, Liu, Jin, Stone and Liu, NeurIPS 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        share = preferred(evidence, self.preference) / evidence.count
        correction = max_min_correction(evidence.gramian, evidence.active, share, self.c)
        divisor = (1.0, 1.0 + self.c**2, 1.0 + self.c)[self.rescale]
        return (share + correction) / divisor, state
