"""The point of least norm in the convex hull of the gradients."""

from polytape.contract import Tensor, ops
from polytape.linalg.compressed import along, gains, length, unit_rows
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.nonneg import nonneg_qp, refined
from polytape.linalg.reciprocal import or_one
from polytape.linalg.solve import with_ridge


def min_norm_point(gramian: Tensor, active: Tensor, compressed: Tensor | None = None) -> Tensor:
    """Weights w on the simplex of the active objectives that minimise w' G w.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool
    compressed  (..., T, T)  what `compressed_rows` made of the gradients, or zeros; None: unknown
    returns  (..., T)     float32, non-negative, sum one; inactive objectives have weight zero

    Source: the problem of Wolfe (1976). For q(y) = y' G y on the rays through the simplex, the
    least of (q(y) + (1'y)^2) / 2 - 1'y is reached at a multiple of the min-norm point whatever its
    norm: one non-negative quadratic programme, bounded even if zero lies in the hull. It is solved
    in cosine coordinates, so rows of very different norm are weighed to full precision. Two
    gradients need no programme.

    Special cases: an active zero row is itself the point of least norm: it has weight one,
    shared equally if there are several. No active objective: all weights zero. Weights that are
    not unique (rank below T): one of the solutions.

    >>> from keras import ops
    >>> w = min_norm_point(ops.array([[1.0, 0.0], [0.0, 4.0]]), ops.array([True, True]))
    >>> [round(float(v), 4) for v in w]
    [0.8, 0.2]
    """
    form = cosine_form(gramian, active)
    zero = ops.zeros_like(form.norms)
    huge = ops.full_like(form.norms, 3e38)
    shortest = ops.min(ops.where(form.alive, form.norms, huge), axis=-1, keepdims=True)
    lean = ops.where(form.alive, shortest / form.norms, zero)
    y = _closed(form, lean) if lean.shape[-1] == 2 else nonneg_qp(_lifted(form, lean), lean)
    if compressed is not None:
        y = _looked_at(form, lean, y, compressed)
    resting = ops.cast(ops.logical_and(active, ops.logical_not(form.alive)), form.norms.dtype)
    weights = ops.where(ops.any(resting > 0, axis=-1, keepdims=True), resting, lean * y)
    total = ops.sum(weights, axis=-1, keepdims=True)
    return weights / ops.where(total > 0, total, ops.ones_like(total))


def _lifted(form: CosineForm, lean: Tensor) -> Tensor:
    return with_ridge(form.cosines) + lean[..., :, None] * lean[..., None, :]


def _closed(form: CosineForm, lean: Tensor) -> Tensor:
    """The solution for two gradients, up to a factor; equal shares of equal gradients."""
    return ops.maximum(lean - form.cosines[..., 0, 1:] * ops.flip(lean, axis=-1), 1e-30)


def _looked_at(form: CosineForm, lean: Tensor, y: Tensor, compressed: Tensor) -> Tensor:
    """y, corrected until the projections of the direction itself are what they should be."""
    unit = unit_rows(compressed, form.norms, form.alive)
    # Times 1/norm, projections are equal where y is positive and not smaller elsewhere.

    def slack(y: Tensor) -> tuple[Tensor, Tensor]:
        direction = along(unit, y)
        size = length(direction)
        total = ops.sum(lean * y, axis=-1, keepdims=True)
        level = ops.square(size) / or_one(total)
        return gains(unit, direction) - level * lean, or_one(size)

    def corrected() -> Tensor:
        total = or_one(ops.sum(lean * y, axis=-1, keepdims=True))
        return refined(_lifted(form, lean), y / total, slack)

    return ops.cond(ops.any(unit != 0), corrected, lambda: y)
