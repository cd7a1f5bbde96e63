"""The best of the worst: the update in a ball that helps the least-helped objective most."""

from polytape.contract import Tensor, ops
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.nonneg import nonneg_qp
from polytape.linalg.reciprocal import or_one
from polytape.linalg.solve import with_ridge

_STEPS = 24
_TOLERANCE = 2e-6  # of the radius


def max_min_correction(gramian: Tensor, active: Tensor, centre: Tensor, reach: float) -> Tensor:
    """Weights z >= 0 of the d = J'(p + z) with the largest least gain min_i (J d)_i.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool
    centre   (..., T)     float32, p >= 0: the ball is centred on J' p
    reach    float >= 0   and has this radius, in units of |J' p|: |J' z| <= reach |J' p|
    returns  (..., T)     float32, zero for inactive objectives and zero rows

    Source: Liu et al. 2021 (CAGrad), eq. 3 and its dual. For a given least gain u, the shortest
    J' z is a non-negative quadratic programme, and its length R(u) a convex, increasing function,
    made of pieces close to linear. So Newton's method on R(u) = radius, begun at an u that is too
    large, comes down to the solution without ever passing it, in two to eight programmes as a
    rule. All in cosine coordinates, so rows of very different norm are served to full precision.

    Zero rows gain nothing whatever d is: they take no part. Where some w >= 0 on the simplex has
    J' w = 0 the correction may be shorter than the ball allows, since nothing longer would help:
    z then has parts of up to some 1e3 p that cancel out.

    >>> from keras import ops
    >>> gramian = ops.array([[1.0, -0.5], [-0.5, 1.5]])
    >>> z = max_min_correction(gramian, ops.array([True, True]), 0.5 * ops.ones(2), 0.5)
    >>> [round(float(x), 4) for x in z]
    [0.3348, 0.1261]
    """
    form = cosine_form(gramian, active)
    longest = _longest(form)
    middle = ops.where(form.alive, centre * (form.norms / longest), 0.0)
    # Not a matmul: accelerators may round its operands to fewer than 24 bits.
    gains = ops.sum(form.cosines * middle[..., None, :], axis=-1)
    square = ops.sum(middle * gains, axis=-1, keepdims=True)
    return _best(form, gains, reach * ops.sqrt(ops.maximum(square, 0.0)), 3e38)


def max_min_in_ball(
    gramian: Tensor, active: Tensor, gains: Tensor, radius: Tensor, ceiling: Tensor
) -> Tensor:
    """Weights z >= 0 of the d = J' z with |d| <= radius and the largest least gains_i + (J d)_i.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool
    gains    (..., T)     float32: what each objective gains anyhow
    radius   (..., 1)     float32 >= 0
    ceiling  (..., 1)     float32: no d, however long, has a least gain above
    returns  (..., T)     float32, zero for inactive objectives and zero rows

    The problem of `max_min_correction` with gains of any origin; what is said there holds here.
    """
    form = cosine_form(gramian, active)
    longest = _longest(form)
    unit = _shortest(form) * longest
    gains = ops.where(form.alive, gains / form.norms / longest, 0.0)
    return _best(form, gains, radius / longest, ceiling / unit)


def _longest(form: CosineForm) -> Tensor:
    return or_one(ops.max(ops.where(form.alive, form.norms, 0.0), axis=-1, keepdims=True))


def _shortest(form: CosineForm) -> Tensor:
    huge = ops.full_like(form.norms, 3e38)
    return ops.min(ops.where(form.alive, form.norms, huge), axis=-1, keepdims=True)


def _best(form: CosineForm, gains: Tensor, radius: Tensor, ceiling: Tensor | float) -> Tensor:
    """gains    in units of the longest gradient, of gradients of length one
    radius   in units of the longest gradient
    ceiling  in units of the longest times the shortest
    """
    lean = ops.where(form.alive, _shortest(form) / form.norms, ops.zeros_like(form.norms))
    gains = ops.where(form.alive, gains, 0.0)
    # No objective gains more than if the whole radius served it alone.
    alone = ops.where(lean > 0, (gains + radius) / ops.where(lean > 0, lean, 1.0), 3e38)
    level = ops.minimum(ops.min(alone, axis=-1, keepdims=True), ceiling)
    beta = _on_the_sphere(with_ridge(form.cosines), lean, gains, radius, level)
    return ops.where(form.alive, beta * (_longest(form) / form.norms), 0.0)


def _on_the_sphere(
    matrix: Tensor, lean: Tensor, gains: Tensor, radius: Tensor, level: Tensor
) -> Tensor:
    """The beta >= 0 with beta' A beta = radius^2 that is best for some least gain below `level`."""

    def going(level: Tensor, best: Tensor, gap: Tensor, step: Tensor) -> Tensor:
        del level, best
        return ops.logical_and(ops.any(gap > _TOLERANCE), step < _STEPS)

    def advance(
        level: Tensor, best: Tensor, gap: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        demand = level * lean - gains
        beta = nonneg_qp(matrix, demand)
        length = ops.sqrt(ops.maximum(ops.sum(beta * demand, axis=-1, keepdims=True), 0.0))
        slope = ops.sum(lean * beta, axis=-1, keepdims=True)
        found = ops.logical_and(length > 0, radius > 0)
        divisor = ops.where(found, length, 1.0)
        apart = ops.where(found, ops.abs(length / ops.where(found, radius, 1.0) - 1.0), 0.0)
        closer = apart < gap
        best = ops.where(closer, beta * ops.where(found, radius / divisor, 0.0), best)
        change = (length - radius) * length / ops.where(found, slope, 1.0)
        level = ops.where(found, level - change, level)
        # Newton's method comes closer with every step, until rounding is all that is left.
        return level, best, ops.where(closer, apart, 0.0), step + 1

    start = (level, ops.zeros_like(gains), ops.full_like(level, 1e30), ops.zeros((), dtype="int32"))
    return ops.while_loop(going, advance, start)[1]
