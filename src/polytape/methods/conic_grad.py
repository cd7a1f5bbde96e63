"""ConicGrad: the update in a cone around the mean gradient that helps the worst objective most."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Range, Scale, State, Tensor, ops
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.max_min import max_min_in_ball
from polytape.linalg.min_norm import min_norm_point
from polytape.linalg.preference import preferred
from polytape.linalg.reciprocal import or_one

_PARALLEL = 1e-6  # a square this share of a gradient's own is rounding


@dataclass(frozen=True)
class ConicGrad(Method):
    """The best for the worst objective among the directions near that of the mean gradient.

    Hassanpour et al., "Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone",
    arXiv 2502.00217, 2025: of all d with <g_0, d> >= c |g_0| |d|, g_0 the mean gradient, the one
    with the largest min_t <g_t, d>. The problem leaves the length of d open; here it is |g_0|. T
    backward passes.

    It is solved exactly. If the point of least norm in the hull of the gradients (MGDA's direction)
    lies in the cone, d is along it. Else d is on the rim, d = c g_0 + s |g_0| u with s^2 = 1 - c^2
    and u the unit vector at right angles to g_0 that is best for the worst: CAGrad's problem on the
    parts of the gradients at right angles to g_0.

    The paper gets at d by the Lagrangian of the squared constraint, hence by the inverse of
    c^2 |g_0|^2 I - g_0 g_0^T, which is indefinite for c < 1; that is not followed, the problem is.

    Weights: never negative. Degree 1 in the loss scale. Equal gradients: their sum. Opposed
    gradients: their sum, as all parallel ones have nothing at right angles. A zero row gains
    nothing whatever is done, so it is left out of the minimum. T = 1: one. Where no d helps
    everybody (a combination of the gradients is zero) d is the c g_0 + s |g_0| u, |u| <= 1, that is
    best for the worst, made as long as g_0. No g_0: no update.

    Args:
        c: cosine of the half angle, 0 < c < 1: towards 1 the mean gradient, towards 0 MGDA. 0.5 is
            ours: the paper tunes it
        preference: p, one positive number per objective: g_0 is the mean with these weights; None:
            equal, as in the paper
        scale: the paper's g_0 is the mean ("mean"); by default ("sum") weights are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.ConicGrad(c=0.9), [[1.0, 0.0], [0.0, 9.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['2.2077', '0.7547']
    """

    c: Annotated[float, Range(0.0, 1.0, open="low high")] = 0.5
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Hassanpour et al., arXiv 2502.00217, 2025"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        form = cosine_form(evidence.gramian, evidence.active)
        share = preferred(evidence, self.preference) / evidence.count
        products = _scaled(form)
        # Not matmuls: accelerators may round their operands to fewer than 24 bits.
        gains = ops.sum(products * share[..., None, :], axis=-1)
        length = ops.sqrt(ops.maximum(_along(gains, share), 0.0))
        axial = gains / or_one(length)
        inside, hull = self._hull(form, products, axial, length)

        def beside() -> Tensor:
            return ops.where(inside, hull, self._rim(form, products, axial, length, share))

        weights = ops.cond(ops.all(inside), lambda: hull, beside)
        return ops.where(length > 0, weights, share), state

    def _hull(
        self, form: CosineForm, products: Tensor, axial: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whether the point of least norm lies in the cone, (..., 1), and the d along it."""
        point = min_norm_point(products, form.alive)
        square = _along(ops.sum(products * point[..., None, :], axis=-1), point)
        parts = _along(ops.diagonal(products, axis1=-2, axis2=-1), point)
        norm = ops.sqrt(ops.maximum(square, 0.0))
        there = square > _PARALLEL * parts
        inside = ops.logical_and(there, _along(axial, point) >= self.c * norm)
        return inside, point * length / ops.where(there, norm, ops.ones_like(norm))

    def _rim(
        self, form: CosineForm, products: Tensor, axial: Tensor, length: Tensor, share: Tensor
    ) -> Tensor:
        """The d on the rim; the mean where nothing is at right angles to it."""
        square = ops.diagonal(products, axis1=-2, axis2=-1)
        across = products - axial[..., :, None] * axial[..., None, :]
        alive = ops.logical_and(form.alive, square - axial**2 > _PARALLEL * square)
        radius = (1.0 - self.c**2) ** 0.5 * length
        # The gains from parts across average to zero, so the least of all is no more than this.
        ceiling = self.c * length**2
        z = max_min_in_ball(across, alive, self.c * axial * length, radius, ceiling)
        back = self.c - _along(axial, z) / or_one(length)
        rim = z + ops.maximum(back, 0.0) * share
        rim = ops.where(ops.any(alive, axis=-1, keepdims=True), rim, share)
        # Shorter than g_0 only if no tilt as far as the rim helps.
        square = _along(ops.sum(products * rim[..., None, :], axis=-1), rim)
        return rim * length / ops.sqrt(or_one(square))


def _scaled(form: CosineForm) -> Tensor:
    """The Gramian in units of the longest gradient, zero where not alive."""
    norms = ops.where(form.alive, form.norms, 0.0)
    lengths = norms / or_one(ops.max(norms, axis=-1, keepdims=True))
    return form.cosines * lengths[..., :, None] * lengths[..., None, :]


def _along(vector: Tensor, weights: Tensor) -> Tensor:
    return ops.sum(vector * weights, axis=-1, keepdims=True)
