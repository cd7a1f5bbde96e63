"""Small linear programmes over a scaled simplex, many at once."""

from collections.abc import Callable
from typing import NamedTuple

from polytape.contract import Tensor, ops
from polytape.linalg.reciprocal import or_one
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


class _Programme(NamedTuple):
    p: Tensor  # (..., T)
    rows: Tensor  # (..., K + 1, T): A, and e as the last one
    ends: Tensor  # (..., K + 1): b, and the one that e'y is to be


class _Point(NamedTuple):
    """What is to be positive comes in pairs of which the products are to vanish."""

    value: Tensor  # (..., T + K): y, and the slack A y - b
    price: Tensor  # (..., T + K): multipliers of y >= 0, and of the rows of A
    level: Tensor  # (..., 1): multiplier of e'y = 1


class _Fault(NamedTuple):
    primal: Tensor  # (..., K + 1): what is missing in the equations of slack, and of e'y
    dual: Tensor  # (..., T): and in those of the prices of y
    terms: Tensor  # (..., T): the sizes of what these add up; a share of them is rounding


def maximise(p: Tensor, A: Tensor, b: Tensor, e: Tensor) -> Tensor:
    """The y >= 0 with `A y >= b` and `e' y = 1` that maximises `p' y`, for each of a batch.

    p, e     (..., T)     float32, entries of about one at most, e >= 0
    A, b     (..., K, T)  and (..., K), float32, rows of about unit length
    returns  (..., T)     y, float32. Where there are several solutions, the middle of them

    A solution is to exist. On 4557 programmes of EPO and of difficult matrices, 2 <= T <= 32, each
    taken as given, in float32, the value is that of double precision but for 5e-8 of its terms
    (median; at most 1e-5, at a condition of 1e6, too), and no bound is missed by more than 4e-7 of
    the size of y. Seven are exceptions: rounding had left them so little room that a bound missed
    by 1e-8 is worth more than that (1e-3 at worst, of the four of which it is known). What rounding
    does to the data before they come here is not part of these figures.

    Source: the predictor-corrector interior-point method of Mehrotra, 1992, with both systems of
    equations softened by proximal terms; some seven steps with two solves of T equations each,
    whatever K. It keeps the best point it has seen.

    >>> from keras import ops
    >>> A, b = ops.array([[-1.0, 1.0]]), ops.array([-0.5])
    >>> y = maximise(ops.array([1.0, 0.0]), A, b, ops.ones(2))
    >>> [round(float(v), 3) for v in y]
    [0.75, 0.25]
    """

    given = _Programme(
        p,
        ops.concatenate([A, e[..., None, :]], axis=-2),
        ops.concatenate([b, ops.ones_like(b[..., :1])], axis=-1),
    )

    def advance(*loop: Tensor) -> tuple[Tensor, ...]:
        point, fault, rows = _Point(*loop[:3]), _Fault(*loop[3:6]), Tableau(*loop[6:9])
        top, least, stale, step = loop[9:]
        point, rows = _moved(point, fault, rows)
        fault = _fault(given, point)
        residual = _residual(given, point, fault)
        better = ops.logical_and(residual < least, least > TOLERANCE)
        stale = ops.where(residual < 0.5 * least, ops.zeros_like(stale), stale + 1)
        top = ops.where(better, point.value[..., : p.shape[-1]], top)
        least = ops.where(better, residual, least)
        return (*point, *fault, *rows, top, least, stale, step + 1)

    def going(*loop: Tensor) -> Tensor:
        least, stale, step = loop[10:]
        moving = ops.logical_or(least > _NEAR, stale < _PATIENCE)
        open_ = ops.logical_and(least > TOLERANCE, moving)
        return ops.logical_and(ops.any(open_), step < _STEPS)

    first = _start(given)
    worst = ops.full_like(first.level, 1e30)
    best = (
        first.value[..., : p.shape[-1]],
        worst,
        ops.zeros_like(worst, dtype="int32"),
        ops.zeros((), "int32"),
    )
    start = (*first, *_fault(given, first), *tableau(given.rows), *best)
    return ops.while_loop(going, advance, start)[9]


# Sums are taken several at once where that reads well: each one that is compiled costs something on
# XLA even where it is not reached. Not matmuls: accelerators may round their operands to fewer than
# 24 bits.


def _sums(*vectors: Tensor) -> list[Tensor]:
    """The sum of each vector (..., n), as (..., 1)."""
    found = ops.sum(ops.stack(vectors, axis=-2), axis=-1)
    return [found[..., index : index + 1] for index in range(len(vectors))]


def _times(rows: Tensor, y: Tensor) -> Tensor:
    return ops.sum(rows * y[..., None, :], axis=-1)


def _start(given: _Programme) -> _Point:
    p, rows, ends = given
    e, price = rows[..., -1, :], ops.ones_like(ends[..., :-1])
    (total,) = _sums(e)
    y = ops.ones_like(p) / or_one(total)
    value = p + ops.sum(rows[..., :-1, :], axis=-2)
    level = -ops.max(value, axis=-1, keepdims=True) - 1.0
    slack = ops.maximum((_times(rows, y) - ends)[..., :-1], 1.0)
    reduced = ops.maximum(-value - level * e, 1.0)
    return _joined((y, slack), (reduced, price), level)


def _joined(value: tuple[Tensor, Tensor], price: tuple[Tensor, Tensor], level: Tensor) -> _Point:
    return _Point(ops.concatenate(value, axis=-1), ops.concatenate(price, axis=-1), level)


def _fault(given: _Programme, point: _Point) -> _Fault:
    """What is missing in the equations of the primal and the dual problem."""
    p, rows, ends = given
    count = p.shape[-1]
    slack = ops.concatenate([point.value[..., count:], ops.zeros_like(point.level)], axis=-1)
    own, level = point.price[..., :count], point.level * rows[..., -1, :]
    terms = rows[..., :-1, :] * point.price[..., count:, None]
    both = ops.sum(ops.stack([terms, ops.abs(terms)], axis=-3), axis=-2)
    return _Fault(
        ends - _times(rows, point.value[..., :count]) + slack,
        p + both[..., 0, :] + level + own,
        ops.abs(p) + both[..., 1, :] + ops.abs(level),
    )


def _residual(given: _Programme, point: _Point, fault: _Fault) -> Tensor:
    """Largest breach of the conditions of optimality, each relative to its terms; (..., 1)."""
    p, _, ends = given
    count = p.shape[-1]
    y, missing = point.value[..., :count], ops.abs(fault.dual)
    size, lost, worth = _sums(y, missing * y, ops.abs(p) * y)
    gap, prices = _sums(
        point.value * point.price,
        ops.concatenate([ops.zeros_like(y), point.price[..., count:]], axis=-1),
    )
    scale = 1.0 + size + ops.abs(ends[..., :-1])
    scale = ops.concatenate([scale, ops.ones_like(size)], axis=-1)
    breaches = [
        ops.abs(fault.primal) / scale,
        missing / (1.0 + prices + ops.abs(point.level)),
        # Unknowns may differ in size as much as gradients do: what each of them may lose counts.
        (gap + lost) / (_TINY + worth),
    ]
    return ops.max(ops.concatenate(breaches, axis=-1), axis=-1, keepdims=True)


def _moved(at: _Point, fault: _Fault, rows: Tableau) -> tuple[_Point, Tableau]:
    """The next point: straight ahead to see how far one gets, then with that in mind."""
    newton, rows = _newton(at, fault, rows)
    products, count = at.value * at.price, at.value.shape[-1]
    ahead = newton(-products)
    there = _stepped(at, ahead, _reach(at, ahead))
    now, then = _sums(products, there.value * there.price)
    target = now / count * ops.clip((then / now) ** 3, 1e-4, 1.0)
    target = ops.maximum(target, _LEAST)
    change = newton(target - products - ahead.value * ahead.price)
    return _stepped(at, change, _TO_BOUNDARY * _reach(at, change)), rows


def _newton(at: _Point, fault: _Fault, rows: Tableau) -> tuple[Callable[[Tensor], _Point], Tableau]:
    """A function that gives the change after which products have changed by (..., T + K).

    Source: weighted least squares in how y, A y and e'y change; forces are changes of prices.
    """
    count = fault.dual.shape[-1]
    y, slack = at.value[..., :count], at.value[..., count:]
    reduced, price = at.price[..., :count], at.price[..., count:]
    size = ops.maximum(1.0, ops.sum(y, axis=-1, keepdims=True))
    prices = 1.0 + ops.max(price, axis=-1, keepdims=True)
    soft = _SOFT * size / prices
    firm = ops.maximum(_SOFT * prices, _FIRM * fault.terms) / size
    own = reduced / y + firm
    weight = ops.concatenate([own, 1 / (slack / price + soft), size * prices / _SOFT], axis=-1)
    rows = exchanged(rows, weight)
    fit = fitting(rows, weight)

    def change(products: Tensor) -> _Point:
        corners, rims = products[..., :count], products[..., count:]
        pull = (fault.dual + corners / y) / own
        given = fault.primal[..., :-1] + rims / price
        target = [pull, given, fault.primal[..., -1:]]
        values, forces = fit(ops.concatenate(target, axis=-1))
        ahead, prices, level = values[..., :count], forces[..., count:-1], forces[..., -1:]
        value = ahead, (rims - slack * prices) / price
        return _joined(value, ((corners - reduced * ahead) / y, prices), level)

    return change, rows


def _reach(at: _Point, change: _Point) -> Tensor:
    """How far values, and prices, can go before one is zero: (..., 2)."""
    shrink = ops.stack([-change.value / at.value, -change.price / at.price], axis=-2)
    return 1.0 / ops.maximum(ops.max(shrink, axis=-1), 1e-6)


def _stepped(at: _Point, change: _Point, reach: Tensor) -> _Point:
    reach = ops.minimum(reach, 1.0)
    primal, dual = reach[..., :1], reach[..., 1:]
    return _Point(
        at.value + primal * change.value,
        at.price + dual * change.price,
        at.level + dual * change.level,
    )
