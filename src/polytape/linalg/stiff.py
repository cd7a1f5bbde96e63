"""Least squares whose weights span many orders of magnitude, many at once."""

from collections.abc import Callable
from typing import NamedTuple

from polytape.contract import Tensor, ops
from polytape.linalg.solve import solve_spd

_LARGE = 16.0  # an entry of which the weighted square is larger gives cause for an exchange


class Tableau(NamedTuple):
    """T + M linear functions, T of them unknowns and the others in terms of these.

    entries  (..., M, T)   float32: the others, by unknowns
    order    (..., T + M)  int32: which function stands at a place; first come the unknowns
    place    (..., T + M)  int32: the place at which a function stands
    """

    entries: Tensor
    order: Tensor
    place: Tensor


def tableau(rows: Tensor) -> Tableau:
    """Of T unknowns, which come first, and of M functions of them, the rows (..., M, T)."""
    count, size = rows.shape[-2:]
    order = ops.arange(size + count, dtype="int32")
    order = ops.broadcast_to(order, (*rows.shape[:-2], size + count))
    return Tableau(rows, order, order)


def exchanged(given: Tableau, weight: Tensor) -> Tableau:
    """The same rows, with heavy ones as unknowns; `weight` (..., T + M) positive, in first order.

    Source: the exchange step of linear programming. A row and an unknown change places, one pair at
    a time, as long as an entry is large in units of their weights. The normal equations of
    `fitting` then have a condition below 1 + 16 M T, whatever the weights.
    """
    size = given.entries.shape[-1]

    def worth(now: Tableau) -> Tensor:
        sorted_ = ops.take_along_axis(weight, now.order, axis=-1)
        ratio = sorted_[..., size:, None] / sorted_[..., None, :size]
        return now.entries * now.entries * ratio

    def going(*loop: Tensor) -> Tensor:
        return ops.logical_and(ops.any(worth(Tableau(*loop[:3])) > _LARGE), loop[3] < 2 * size)

    def step(*loop: Tensor) -> tuple[Tensor, ...]:
        now = Tableau(*loop[:3])
        return (*_swapped(now, worth(now)), loop[3] + 1)

    return Tableau(*ops.while_loop(going, step, (*given, ops.zeros((), "int32")))[:3])


def _swapped(now: Tableau, worth: Tensor) -> Tableau:
    """The row and the unknown of the largest worth change places, if it is large."""
    count, size = worth.shape[-2:]
    flat = ops.reshape(worth, (*worth.shape[:-2], count * size))
    best = ops.cast(ops.argmax(flat, axis=-1), "int32")[..., None]
    large = ops.max(flat, axis=-1, keepdims=True) > _LARGE
    i, j = best // size, best % size
    at_row, at_unknown = ops.equal(ops.arange(count), i), ops.equal(ops.arange(size), j)
    row = ops.sum(ops.where(at_row[..., None], now.entries, 0.0), axis=-2)
    column = ops.sum(ops.where(at_unknown[..., None, :], now.entries, 0.0), axis=-1)
    pivot = ops.sum(ops.where(at_unknown, row, 0.0), axis=-1, keepdims=True)
    pivot = ops.where(large, pivot, 1.0)
    row = ops.where(at_unknown, -1.0, row) / pivot
    kept = ops.where(at_unknown[..., None, :], 0.0, now.entries)
    entries = kept - column[..., :, None] * row[..., None, :]
    entries = ops.where(at_row[..., :, None], -row[..., None, :], entries)
    entries = ops.where(large[..., None], entries, now.entries)
    here, there = j, i + size
    down = ops.take_along_axis(now.order, here, axis=-1)
    up = ops.take_along_axis(now.order, there, axis=-1)
    places = ops.arange(count + size)
    order = ops.where(ops.equal(places, here), up, now.order)
    order = ops.where(ops.equal(places, there), down, order)
    place = ops.where(ops.equal(places, up), here, now.place)
    place = ops.where(ops.equal(places, down), there, place)
    return Tableau(entries, ops.where(large, order, now.order), ops.where(large, place, now.place))


def fitting(given: Tableau, weight: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Solves `min_x sum_i weight_i (row_i x - target_i)^2`; a function of targets (..., T + M).

    It returns the values `row_i x` and the forces `weight_i (target_i - row_i x)`, (..., T + M) in
    the first order of the rows. Normal equations in the first unknowns would lose what light rows
    say beside heavy ones, and forces of heavy rows would be a difference of nearly equal numbers.
    Here heavy rows are unknowns, and what is solved for is how far they end from their targets.
    """
    entries, size = given.entries, given.entries.shape[-1]
    sorted_ = ops.take_along_axis(weight, given.order, axis=-1)
    heavy, light = sorted_[..., :size], sorted_[..., size:]
    unit = 1 / ops.sqrt(heavy)
    scaled = entries * unit[..., None, :]
    products = (scaled * light[..., None])[..., :, None] * scaled[..., None, :]
    normal = ops.eye(size) + ops.sum(products, axis=-3)

    def solve(target: Tensor) -> tuple[Tensor, Tensor]:
        target = ops.take_along_axis(target, given.order, axis=-1)
        first = target[..., :size]
        rest = target[..., size:] - ops.sum(entries * first[..., None, :], axis=-1)
        pull = ops.sum(scaled * (light * rest)[..., None], axis=-2)
        extra = solve_spd(normal, pull) * unit
        rest = rest - ops.sum(entries * extra[..., None, :], axis=-1)
        forces = ops.concatenate([-heavy * extra, light * rest], axis=-1)
        values = ops.concatenate([first + extra, target[..., size:] - rest], axis=-1)
        return (
            ops.take_along_axis(values, given.place, axis=-1),
            ops.take_along_axis(forces, given.place, axis=-1),
        )

    return solve
