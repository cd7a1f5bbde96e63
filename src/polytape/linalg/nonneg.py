"""Non-negative quadratic programmes: the one solver behind min-norm points and dual cones."""

from keras import ops

from polytape.contract import Tensor
from polytape.linalg.solve import solve_spd, with_ridge

# Accepted residual, relative to the size of the solution: some ten roundings of float32.
TOLERANCE = 1e-6
_PIVOTINGS = 12
_INTERIOR_STEPS = 40
_PATIENCE = 3  # block exchanges that may fail to shrink the number of violations
_CENTRING = 0.1
_TO_BOUNDARY = 0.98


def nonneg_qp(matrix: Tensor, linear: Tensor) -> Tensor:
    """The y >= 0 that minimises `y' A y / 2 - b' y`, for each problem of a batch.

    matrix   (..., T, T)  A, float32, symmetric, positive semidefinite, diagonal of about one
    linear   (..., T)     b, float32, with the leading axes of `matrix` or axes that broadcast
    returns  (..., T)     y, float32. With s = A y - b the conditions y >= 0, s >= 0, y s = 0 hold
                          up to about 1e-6 of sum(y) + max|b|

    A gets a ridge of 1e-6 (4e-6 for T = 64), which makes the solution unique and bounded; it
    acts within the stated precision. Non-finite input gives non-finite output, no error.

    Block principal pivoting (Judice & Pires 1994) starts from the positive entries of b and is
    done after one to three solves as a rule. It may cycle on matrices of low rank: the problems
    that it leaves go to a primal-dual interior-point method, which takes some fifteen solves
    whatever the matrix. Each keeps the best point it has seen.

    >>> from keras import ops
    >>> y = nonneg_qp(ops.array([[1.0, 0.5], [0.5, 1.0]]), ops.array([1.0, -1.0]))
    >>> [round(float(v), 4) for v in y]
    [1.0, 0.0]
    """
    matrix = with_ridge(matrix)
    size = ops.max(ops.abs(linear), axis=-1, keepdims=True)
    size = ops.where(size > 0, size, ops.ones_like(size))
    linear = linear / size
    best = _pivot(matrix, linear)
    best = _interior(matrix, linear, best)
    return best[0] * size


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


def _pivot(matrix: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Best y and its residual, by exchanging blocks between the zero and the positive part."""
    count = linear.shape[-1]
    identity = ops.eye(count, dtype=linear.dtype)
    order = ops.arange(1, count + 1, dtype="int32")

    def going(free, fewest, patience, y, residual, step):  # type: ignore[no-untyped-def]
        return ops.logical_and(ops.any(residual > TOLERANCE), step < _PIVOTINGS)

    def exchange(free, fewest, patience, y, residual, step):  # type: ignore[no-untyped-def]
        mask = ops.cast(free, linear.dtype)
        inner = matrix * mask[..., :, None] * mask[..., None, :]
        trial = solve_spd(inner + identity * (1 - mask)[..., None, :], linear * mask) * mask
        clipped = ops.maximum(trial, 0.0)
        found = _residual(matrix, linear, clipped)
        y, residual = _better((y, residual), clipped, found)
        slack = _times(matrix, trial) - linear
        slop = TOLERANCE * (ops.sum(clipped, axis=-1, keepdims=True) + 1.0)
        wrong = ops.where(free, trial < 0, slack < -slop)
        number = ops.sum(ops.cast(wrong, "int32"), axis=-1, keepdims=True)
        fewer = number < fewest
        patience = ops.where(fewer, _PATIENCE, patience - 1)
        last = ops.max(ops.where(wrong, order, 0), axis=-1, keepdims=True)
        flips = ops.logical_and(wrong, ops.logical_or(patience >= 0, ops.equal(order, last)))
        return (
            ops.not_equal(free, flips),
            ops.minimum(number, fewest),
            patience,
            y,
            residual,
            step + 1,
        )

    column = linear[..., :1]
    start = (
        linear > 0,
        ops.full_like(column, count + 1, dtype="int32"),
        ops.full_like(column, _PATIENCE, dtype="int32"),
        ops.zeros_like(linear),
        ops.full_like(column, 1e30),
        ops.zeros((), dtype="int32"),
    )
    return ops.while_loop(going, exchange, start)[3:5]


def _interior(
    matrix: Tensor, linear: Tensor, best: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Best y and its residual, from there, by a path-following method; no steps if none needed."""
    count = linear.shape[-1]
    identity = ops.eye(count, dtype=linear.dtype)

    def going(y, s, top, residual, step):  # type: ignore[no-untyped-def]
        return ops.logical_and(ops.any(residual > TOLERANCE), step < _INTERIOR_STEPS)

    def advance(y, s, top, residual, step):  # type: ignore[no-untyped-def]
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
    return ops.while_loop(going, advance, start)[2:4]
