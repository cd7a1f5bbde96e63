"""Small linear programmes over a scaled simplex, many at once."""

from typing import NamedTuple

from keras import ops

from polytape.contract import Tensor
from polytape.linalg.solve import solve_spd

TOLERANCE = 1e-6  # accepted residual, relative to the size of the solution
_STEPS = 40
_NEAR = 1e-3  # a residual below which steps that do not halve it are rounding
_PATIENCE = 5  # such steps before giving up
_TO_BOUNDARY = 0.98
_RIDGE = 3e-7  # on a Newton matrix of unit diagonal: its rounding


class _Point(NamedTuple):
    y: Tensor
    slack: Tensor  # A y - b
    price: Tensor  # multipliers of the rows of A
    reduced: Tensor  # multipliers of y >= 0
    level: Tensor  # multiplier of e'y = 1, (..., 1)


class _Fault(NamedTuple):
    slack: Tensor
    level: Tensor
    reduced: Tensor


def maximise(p: Tensor, A: Tensor, b: Tensor, e: Tensor) -> Tensor:
    """The y >= 0 with `A y >= b` and `e' y = 1` that maximises `p' y`, for each of a batch.

    p, e     (..., T)     float32, entries of about one at most, e >= 0
    A, b     (..., K, T)  and (..., K), float32, rows of about unit length
    returns  (..., T)     y, float32. Where there are several solutions, the middle of them

    A solution is to exist. Found are the conditions of optimality up to 1e-6 as a rule, in the
    units of `_residual`; 1e-3 on matrices of cosines with a condition of 1e6.

    Source: the predictor-corrector interior-point method of Mehrotra, 1992; some ten steps with two
    solves of T equations each, whatever K. It keeps the best point it has seen.

    >>> from keras import ops
    >>> A, b = ops.array([[-1.0, 1.0]]), ops.array([-0.5])
    >>> y = maximise(ops.array([1.0, 0.0]), A, b, ops.ones(2))
    >>> [round(float(v), 3) for v in y]
    [0.75, 0.25]
    """

    def advance(*loop: Tensor) -> tuple[Tensor, ...]:
        point, (top, least, stale, step) = _Point(*loop[:5]), loop[5:]
        point = _moved(A, e, point, _fault(p, A, b, e, point))
        residual = _residual(p, point, _fault(p, A, b, e, point))
        better = residual < least
        stale = ops.where(residual < 0.5 * least, ops.zeros_like(stale), stale + 1)
        top, least = ops.where(better, point.y, top), ops.where(better, residual, least)
        return (*point, top, least, stale, step + 1)

    def going(*loop: Tensor) -> Tensor:
        least, stale, step = loop[6:]
        moving = ops.logical_or(least > _NEAR, stale < _PATIENCE)
        open_ = ops.logical_and(least > TOLERANCE, moving)
        return ops.logical_and(ops.any(open_), step < _STEPS)

    first = _start(p, A, b, e)
    worst = ops.full_like(first.level, 1e30)
    start = (*first, first.y, worst, ops.zeros_like(worst, dtype="int32"), ops.zeros((), "int32"))
    return ops.while_loop(going, advance, start)[5]


# Not matmuls: accelerators may round their operands to fewer than 24 bits.


def _times(A: Tensor, y: Tensor) -> Tensor:
    return ops.sum(A * y[..., None, :], axis=-1)


def _back(A: Tensor, price: Tensor) -> Tensor:
    return ops.sum(A * price[..., :, None], axis=-2)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return ops.sum(one * other, axis=-1, keepdims=True)


def _start(p: Tensor, A: Tensor, b: Tensor, e: Tensor) -> _Point:
    total = ops.sum(e, axis=-1, keepdims=True)
    y = ops.ones_like(p) / ops.where(total > 0, total, ops.ones_like(total))
    price = ops.ones_like(b)
    value = p + _back(A, price)
    level = -ops.max(value, axis=-1, keepdims=True) - 1.0
    reduced = ops.maximum(-value - level * e, 1.0)
    return _Point(y, ops.maximum(_times(A, y) - b, 1.0), price, reduced, level)


def _fault(p: Tensor, A: Tensor, b: Tensor, e: Tensor, point: _Point) -> _Fault:
    """What is missing in the equations of the primal and the dual problem."""
    return _Fault(
        b - _times(A, point.y) + point.slack,
        1.0 - _inner(e, point.y),
        p + _back(A, point.price) + point.level * e + point.reduced,
    )


def _gap(point: _Point) -> Tensor:
    return _inner(point.y, point.reduced) + _inner(point.slack, point.price)


def _residual(p: Tensor, point: _Point, fault: _Fault) -> Tensor:
    """Largest breach of the conditions of optimality, each relative to its terms; (..., 1)."""
    size = 1.0 + ops.sum(point.y, axis=-1, keepdims=True)
    prices = 1.0 + ops.sum(point.price, axis=-1, keepdims=True) + ops.abs(point.level)
    breaches = [
        ops.max(ops.abs(fault.slack), axis=-1, keepdims=True) / size,
        ops.abs(fault.level),
        ops.max(ops.abs(fault.reduced), axis=-1, keepdims=True) / prices,
        _gap(point) / (1.0 + ops.abs(_inner(p, point.y))),
    ]
    return ops.max(ops.concatenate(breaches, axis=-1), axis=-1, keepdims=True)


def _moved(A: Tensor, e: Tensor, at: _Point, fault: _Fault) -> _Point:
    """The next point: straight ahead to see how far one gets, then with that in mind."""
    ahead = _newton(A, e, at, fault, -at.y * at.reduced, -at.slack * at.price)
    primal, dual = _reach(at, ahead)
    count = at.y.shape[-1] + at.slack.shape[-1]
    mean = _gap(at) / count
    there = _gap(_stepped(at, ahead, primal, dual)) / count
    target = mean * ops.clip((there / mean) ** 3, 1e-4, 1.0)
    corners = target - at.y * at.reduced - ahead.y * ahead.reduced
    rims = target - at.slack * at.price - ahead.slack * ahead.price
    change = _newton(A, e, at, fault, corners, rims)
    primal, dual = (ops.minimum(1.0, _TO_BOUNDARY * length) for length in _reach(at, change))
    return _stepped(at, change, primal, dual)


def _newton(
    A: Tensor, e: Tensor, at: _Point, fault: _Fault, corners: Tensor, rims: Tensor
) -> _Point:
    """The change of a point after which its products are what `corners` and `rims` add to them."""
    ratio = at.price / at.slack
    own = at.reduced / at.y
    matrix = ops.sum(A[..., :, :, None] * (A * ratio[..., None])[..., :, None, :], axis=-3)
    identity = ops.eye(at.y.shape[-1], dtype=at.y.dtype)
    # Rows are brought to a unit diagonal first: the ratios span many orders of magnitude.
    unit = 1 / ops.sqrt(ops.diagonal(matrix, axis1=-2, axis2=-1) + own)
    matrix = (matrix + identity * own[..., None, :]) * unit[..., :, None] * unit[..., None, :]
    matrix = (matrix + _RIDGE * identity)[..., None, :, :]
    pull = fault.reduced + corners / at.y + _back(A, rims / at.slack + ratio * fault.slack)
    sides = ops.stack([pull * unit, e * unit], axis=-2)
    found = solve_spd(ops.broadcast_to(matrix, (*sides.shape, sides.shape[-1])), sides)
    free, tied = found[..., 0, :] * unit, found[..., 1, :] * unit
    level = (fault.level - _inner(e, free)) / _inner(e, tied)
    y = free + level * tied
    slack = _times(A, y) - fault.slack
    price = (rims - at.price * slack) / at.slack
    return _Point(y, slack, price, (corners - at.reduced * y) / at.y, level)


def _reach(at: _Point, change: _Point) -> tuple[Tensor, Tensor]:
    """How far the primal and the dual part can go, at most in full: (..., 1) each."""

    def furthest(*pairs: tuple[Tensor, Tensor]) -> Tensor:
        shrink = ops.concatenate([-step / value for value, step in pairs], axis=-1)
        return 1.0 / ops.maximum(ops.max(shrink, axis=-1, keepdims=True), 1e-6)

    primal = furthest((at.y, change.y), (at.slack, change.slack))
    dual = furthest((at.price, change.price), (at.reduced, change.reduced))
    return primal, dual


def _stepped(at: _Point, change: _Point, primal: Tensor, dual: Tensor) -> _Point:
    primal, dual = ops.minimum(primal, 1.0), ops.minimum(dual, 1.0)
    return _Point(
        at.y + primal * change.y,
        at.slack + primal * change.slack,
        at.price + dual * change.price,
        at.reduced + dual * change.reduced,
        at.level + dual * change.level,
    )
