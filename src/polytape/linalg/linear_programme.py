"""Small linear programmes over a scaled simplex, many at once."""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from polytape.contract import Tensor
from polytape.linalg.stiff import Tableau, exchanged, fitting, tableau

TOLERANCE = 1e-6  # accepted residual, relative to the size of the solution
_STEPS = 40
_NEAR = 1e-4  # a residual below which steps that do not halve it are rounding
_PATIENCE = 5  # such steps before giving up
_TO_BOUNDARY = 0.98
_TINY = 1e-2  # a value of the programme that counts as zero
_LEAST = 1e-12  # product of a number and its multiplier: those that are done wait for a batch
# The Newton equations are softened, which leaves their solutions as they are: by a share of what is
# usual for a price and for a y, and by one of the terms in a dual equation. The last keeps y in the
# middle of several solutions when all that still pushes it is rounding.
_SOFT = 1e-6
_FIRM = 5e-4


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

    A solution is to exist. On 3567 programmes of EPO and of difficult matrices, 2 <= T <= 32, each
    taken as given, in float32, the value is that of double precision but for 4e-8 of its terms
    (median; at most 9e-6, at a condition of 1e6, too), and no bound is missed by more than 4e-7 of
    the size of y. Three are exceptions: rounding had left them so little room that a bound missed
    by 1e-8 is worth more than that, at prices above 1e6. What rounding does to the data before
    they come here is not part of these figures.

    Source: the predictor-corrector interior-point method of Mehrotra, 1992, with both systems of
    equations softened by proximal terms; some seven steps with two solves of T equations each,
    whatever K. It keeps the best point it has seen.

    >>> from keras import ops
    >>> A, b = ops.array([[-1.0, 1.0]]), ops.array([-0.5])
    >>> y = maximise(ops.array([1.0, 0.0]), A, b, ops.ones(2))
    >>> [round(float(v), 3) for v in y]
    [0.75, 0.25]
    """

    def advance(*loop: Tensor) -> tuple[Tensor, ...]:
        point, fault, rows = _Point(*loop[:5]), _Fault(*loop[5:8]), Tableau(*loop[8:11])
        top, least, stale, step = loop[11:]
        point, rows = _moved(point, fault, rows, _terms(p, A, e, point))
        fault = _fault(p, A, b, e, point)
        residual = _residual(p, b, point, fault)
        better = ops.logical_and(residual < least, least > TOLERANCE)
        stale = ops.where(residual < 0.5 * least, ops.zeros_like(stale), stale + 1)
        top, least = ops.where(better, point.y, top), ops.where(better, residual, least)
        return (*point, *fault, *rows, top, least, stale, step + 1)

    def going(*loop: Tensor) -> Tensor:
        least, stale, step = loop[12:]
        moving = ops.logical_or(least > _NEAR, stale < _PATIENCE)
        open_ = ops.logical_and(least > TOLERANCE, moving)
        return ops.logical_and(ops.any(open_), step < _STEPS)

    first = _start(p, A, b, e)
    rows = tableau(ops.concatenate([A, e[..., None, :]], axis=-2))
    worst = ops.full_like(first.level, 1e30)
    best = first.y, worst, ops.zeros_like(worst, dtype="int32"), ops.zeros((), "int32")
    start = (*first, *_fault(p, A, b, e, first), *rows, *best)
    return ops.while_loop(going, advance, start)[11]


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


def _terms(p: Tensor, A: Tensor, e: Tensor, point: _Point) -> Tensor:
    """Sizes of what adds up to zero in the dual problem; a share of them is rounding."""
    return ops.abs(p) + _back(ops.abs(A), point.price) + ops.abs(point.level) * e


def _gap(point: _Point) -> Tensor:
    return _inner(point.y, point.reduced) + _inner(point.slack, point.price)


def _residual(p: Tensor, b: Tensor, point: _Point, fault: _Fault) -> Tensor:
    """Largest breach of the conditions of optimality, each relative to its terms; (..., 1)."""
    size = 1.0 + ops.sum(point.y, axis=-1, keepdims=True)
    prices = 1.0 + ops.sum(point.price, axis=-1, keepdims=True) + ops.abs(point.level)
    # Unknowns may differ in size as much as gradients do: what each of them may lose counts.
    lost = _gap(point) + _inner(ops.abs(fault.reduced), point.y)
    breaches = [
        ops.max(ops.abs(fault.slack) / (size + ops.abs(b)), axis=-1, keepdims=True),
        ops.abs(fault.level),
        ops.max(ops.abs(fault.reduced), axis=-1, keepdims=True) / prices,
        lost / (_TINY + _inner(ops.abs(p), point.y)),
    ]
    return ops.max(ops.concatenate(breaches, axis=-1), axis=-1, keepdims=True)


def _moved(at: _Point, fault: _Fault, rows: Tableau, terms: Tensor) -> tuple[_Point, Tableau]:
    """The next point: straight ahead to see how far one gets, then with that in mind."""
    newton, rows = _newton(at, fault, rows, terms)
    ahead = newton(-at.y * at.reduced, -at.slack * at.price)
    primal, dual = _reach(at, ahead)
    count = at.y.shape[-1] + at.slack.shape[-1]
    mean = _gap(at) / count
    there = _gap(_stepped(at, ahead, primal, dual)) / count
    target = ops.maximum(mean * ops.clip((there / mean) ** 3, 1e-4, 1.0), _LEAST)
    corners = target - at.y * at.reduced - ahead.y * ahead.reduced
    rims = target - at.slack * at.price - ahead.slack * ahead.price
    change = newton(corners, rims)
    primal, dual = (ops.minimum(1.0, _TO_BOUNDARY * length) for length in _reach(at, change))
    return _stepped(at, change, primal, dual), rows


def _newton(
    at: _Point, fault: _Fault, rows: Tableau, terms: Tensor
) -> tuple[Callable[[Tensor, Tensor], _Point], Tableau]:
    """A function that gives the change after which products have changed by `corners` and `rims`.

    Source: weighted least squares in how y, A y and e'y change; forces are changes of prices.
    """
    size = ops.maximum(1.0, ops.sum(at.y, axis=-1, keepdims=True))
    prices = 1.0 + ops.max(at.price, axis=-1, keepdims=True)
    soft = _SOFT * size / prices
    firm = ops.maximum(_SOFT * prices, _FIRM * terms) / size
    own = at.reduced / at.y + firm
    weight = [own, 1 / (at.slack / at.price + soft), size * prices / _SOFT]
    weight = ops.concatenate(weight, axis=-1)
    rows = exchanged(rows, weight)
    fit = fitting(rows, weight)
    count = at.y.shape[-1]

    def change(corners: Tensor, rims: Tensor) -> _Point:
        pull = (fault.reduced + corners / at.y) / own
        target = [pull, fault.slack + rims / at.price, fault.level]
        values, forces = fit(ops.concatenate(target, axis=-1))
        y, price, level = values[..., :count], forces[..., count:-1], forces[..., -1:]
        slack = (rims - at.slack * price) / at.price
        return _Point(y, slack, price, (corners - at.reduced * y) / at.y, level)

    return change, rows


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
