"""Non-negative quadratic programmes: the one solver behind min-norm points and dual cones."""

from collections.abc import Callable

from keras import ops

from polytape.contract import Tensor
from polytape.linalg.solve import solve_spd

# Accepted residual, relative to the size of the solution: some ten roundings of float32.
TOLERANCE = 1e-6
_PIVOTINGS = 12
_INTERIOR_STEPS = 40
_PATIENCE = 3  # block exchanges that may fail to shrink the number of violations
_CENTRING = 0.1
_TO_BOUNDARY = 0.98


def nonneg_qp(matrix: Tensor, linear: Tensor) -> Tensor:
    """The y >= 0 that minimises `y' A y / 2 - b' y`, for each problem of a batch.

    matrix   (..., T, T)  A, float32, symmetric, positive definite, diagonal of about one: what
                          `with_ridge` makes of a matrix of cosines
    linear   (..., T)     b, float32, with the leading axes of `matrix` or axes that broadcast
    returns  (..., T)     y, float32. With s = A y - b the conditions y >= 0, s >= 0, y s = 0 hold
                          up to about 1e-6 of sum(y) + max|b|

    An entry that is not finite spoils its own problem only.

    Block principal pivoting (Judice & Pires 1994) starts from the positive entries of b and is
    done after one to three solves as a rule. It may cycle on matrices of low rank: the problems
    that it leaves go to a primal-dual interior-point method, which takes some fifteen solves
    whatever the matrix. Each keeps the best point it has seen.

    >>> from keras import ops
    >>> y = nonneg_qp(ops.array([[1.0, 0.5], [0.5, 1.0]]), ops.array([1.0, 0.8]))
    >>> [round(float(v), 4) for v in y]
    [0.8, 0.4]
    """
    size = ops.max(ops.abs(linear), axis=-1, keepdims=True)
    size = ops.where(size > 0, size, ops.ones_like(size))
    linear = linear / size
    return _interior(matrix, linear, _pivot(matrix, linear)) * size


def _times(matrix: Tensor, y: Tensor) -> Tensor:
    return ops.sum(matrix * y[..., None, :], axis=-1)


def _residual(matrix: Tensor, linear: Tensor, y: Tensor) -> Tensor:
    """Largest breach of the conditions by y >= 0, relative; (..., 1)."""
    slack = _times(matrix, y) - linear
    breach = ops.maximum(ops.minimum(y, slack), -slack)
    return ops.max(breach, axis=-1, keepdims=True) / (ops.sum(y, axis=-1, keepdims=True) + 1.0)


def _better(old: tuple[Tensor, Tensor], y: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    improved = residual < old[1]
    return ops.where(improved, y, old[0]), ops.where(improved, residual, old[1])


def _unsettled(limit: int) -> Callable[..., Tensor]:
    """Condition of a loop whose last variables are a residual and the number of steps taken."""

    def going(*loop: Tensor) -> Tensor:
        return ops.logical_and(ops.any(loop[-2] > TOLERANCE), loop[-1] < limit)

    return going


def _restricted(matrix: Tensor, linear: Tensor, free: Tensor) -> Tensor:
    """Solution of `A y = b` in the free entries, the others zero."""
    mask = ops.cast(free, linear.dtype)
    inner = matrix * mask[..., :, None] * mask[..., None, :]
    rest = ops.eye(linear.shape[-1], dtype=linear.dtype) * (1 - mask)[..., None, :]
    return solve_spd(inner + rest, linear * mask) * mask


def _violated(matrix: Tensor, linear: Tensor, free: Tensor, y: Tensor) -> Tensor:
    slack = _times(matrix, y) - linear
    slop = TOLERANCE * (ops.sum(ops.maximum(y, 0.0), axis=-1, keepdims=True) + 1.0)
    return ops.where(free, y < 0, slack < -slop)


def _pivot(matrix: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Best y and its residual, by exchanging blocks between the zero and the positive part."""
    count = linear.shape[-1]
    order = ops.arange(1, count + 1, dtype="int32")

    def exchange(
        free: Tensor, fewest: Tensor, patience: Tensor, top: Tensor, residual: Tensor, step: Tensor
    ) -> tuple[Tensor, ...]:
        y = _restricted(matrix, linear, free)
        wrong = _violated(matrix, linear, free, y)
        clipped = ops.maximum(y, 0.0)
        top, residual = _better((top, residual), clipped, _residual(matrix, linear, clipped))
        number = ops.sum(ops.cast(wrong, "int32"), axis=-1, keepdims=True)
        patience = ops.where(number < fewest, _PATIENCE, patience - 1)
        last = ops.max(ops.where(wrong, order, 0), axis=-1, keepdims=True)
        flips = ops.logical_and(wrong, ops.logical_or(patience >= 0, ops.equal(order, last)))
        free = ops.not_equal(free, flips)
        return free, ops.minimum(number, fewest), patience, top, residual, step + 1

    column = linear[..., :1]
    start = (
        linear > 0,
        ops.full_like(column, count + 1, dtype="int32"),
        ops.full_like(column, _PATIENCE, dtype="int32"),
        ops.zeros_like(linear),
        ops.full_like(column, 1e30),
        ops.zeros((), dtype="int32"),
    )
    return ops.while_loop(_unsettled(_PIVOTINGS), exchange, start)[3:5]


def _interior(matrix: Tensor, linear: Tensor, best: tuple[Tensor, Tensor]) -> Tensor:
    """Best y, from there, by a path-following method; no steps if none are needed."""
    count = linear.shape[-1]
    identity = ops.eye(count, dtype=linear.dtype)

    def advance(
        y: Tensor, s: Tensor, top: Tensor, residual: Tensor, step: Tensor
    ) -> tuple[Tensor, ...]:
        slack = _times(matrix, y) - linear
        target = _CENTRING * ops.sum(y * s, axis=-1, keepdims=True) / count
        # Rows are brought to a unit diagonal first: s / y spans many orders of magnitude.
        ratio = s / y
        unit = 1 / ops.sqrt(1 + ratio)
        newton = (matrix + identity * ratio[..., None, :]) * unit[..., :, None] * unit[..., None, :]
        dy = solve_spd(newton, (target / y - slack) * unit) * unit
        ds = (target - s * dy) / y - s
        shrink = ops.maximum(ops.max(-dy / y, axis=-1), ops.max(-ds / s, axis=-1))[..., None]
        length = ops.minimum(1.0, _TO_BOUNDARY / ops.maximum(shrink, 1e-6))
        y, s = y + length * dy, s + length * ds
        top, residual = _better((top, residual), y, _residual(matrix, linear, y))
        return y, s, top, residual, step + 1

    y = ops.ones_like(linear)
    s = ops.maximum(_times(matrix, y) - linear, 1.0)
    start = (y, s, *best, ops.zeros((), dtype="int32"))
    return ops.while_loop(_unsettled(_INTERIOR_STEPS), advance, start)[2]
