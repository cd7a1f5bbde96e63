"""The gradients of several objectives by one variable."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polytape.engines.contract import Rows, Tensor
from polytape.engines.gathered import Gathered, GatheredRows, alike
from polytape.engines.jax.layouts import is_spread
from polytape.engines.jax.lookups import table_of
from polytape.engines.jax.slices import Slice, summed

_SHORT = 16384  # entries of a row
_FEW = 8  # rows


class _Rows:
    sliced = False

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._shape, self._dtype = gradients[0].shape, gradients[0].dtype
        self._rows = [gradient.reshape(-1).astype(_precision(gradient)) for gradient in gradients]

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        return _gram(self._rows, mixed, kept)

    def squares(self) -> list[Tensor]:
        return [jnp.vdot(row, row).astype("float32") for row in self._rows]

    def matrix(self) -> Tensor:
        return jnp.stack(self._rows).astype("float32")

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        # One fused pass over the rows, without a stacked copy; the selection costs nothing in it.
        total = jnp.zeros_like(self._rows[0])
        for index, row in enumerate(self._rows):
            term = weights[index] * row
            total += term if kept is None else jnp.where(kept[index], term, 0.0)
        return self.unflatten(total)

    def unflatten(self, flat: Tensor) -> Tensor:
        return flat.reshape(self._shape).astype(self._dtype)


# Outside of a compiled function the loop would be compiled anew at every call.
@functools.partial(jax.jit, inline=True)
def _gram(rows: list[Tensor] | Tensor, mixed: Tensor | None, kept: Tensor | None) -> Tensor:
    # Long rows in as many pieces as there are rows, one after the other, so that stacking them
    # never holds more than one row on top of the rows themselves; short pieces also accumulate
    # less rounding error.
    count, size = len(rows), rows[0].size
    pieces = min(count, 16) if size > _SHORT else 1
    width = size // pieces

    def product(start: Tensor, width: int) -> Tensor:
        if isinstance(rows, list):
            piece = jnp.stack([jax.lax.dynamic_slice_in_dim(row, start, width) for row in rows])
        else:  # (k, n)
            piece = jax.lax.dynamic_slice_in_dim(rows, start, width, axis=1)
            piece = piece.astype(_precision(piece))
        if kept is not None:
            piece = jnp.where(kept[:, None], piece, 0.0)
        if mixed is not None:
            piece = jnp.matmul(mixed, piece, precision="highest")
        return jnp.matmul(piece, piece.T, precision="highest").astype("float32")

    if pieces == 1:
        return product(0, width)
    total = jnp.zeros_like(jax.eval_shape(lambda: product(0, width)))
    if pieces * width < size:
        total = product(pieces * width, size - pieces * width)
    return jax.lax.fori_loop(0, pieces, lambda i, total: total + product(i * width, width), total)


class Stacked(_Rows):
    """Rows that a loop has left in one tensor, (k, *shape)."""

    def __init__(self, whole: Tensor) -> None:
        self._shape, self._dtype = whole.shape[1:], whole.dtype
        self._whole = whole.reshape(whole.shape[0], -1)

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        return _gram(self._whole, mixed, kept)

    def squares(self) -> list[Tensor]:
        return list(jnp.sum(jnp.square(self._exact(self._whole)), axis=1).astype("float32"))

    def matrix(self) -> Tensor:
        return self._whole.astype("float32")

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        count, size = self._whole.shape
        if size <= _SHORT:
            return self.unflatten(jnp.sum(self._terms(weights, kept, self._whole), axis=0))

        # Some rows at a time: each turn of the loop reads and writes the sum.
        def several(turn: Tensor, total: Tensor) -> Tensor:
            for place in range(_FEW):
                total += self._term(weights, kept, turn * _FEW + place)
            return total

        total = jnp.zeros(size, _precision(self._whole))
        total = jax.lax.fori_loop(0, count // _FEW, several, total)
        for place in range(count - count % _FEW, count):
            total += self._term(weights, kept, place)
        return self.unflatten(total)

    def _term(self, weights: Tensor, kept: Tensor | None, at: Any) -> Tensor:
        own = None if kept is None else kept[at][None]
        return self._terms(weights[at][None], own, self._whole[at][None])[0]

    def _terms(self, weights: Tensor, kept: Tensor | None, rows: Tensor) -> Tensor:
        terms = weights[:, None] * self._exact(rows)
        return terms if kept is None else jnp.where(kept[:, None], terms, 0.0)

    def _exact(self, rows: Tensor) -> Tensor:
        return rows.astype(_precision(rows))


class _Spread(_Rows):
    """Rows in the shape of their variable, so that they stay on the devices that have it.

    One axis of many a variable is on several devices, and flattened it would have to be on all.
    """

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._shape, self._dtype = gradients[0].shape, gradients[0].dtype
        self._rows = [gradient.astype(_precision(gradient)) for gradient in gradients]

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        found, few = self._rows, len(self._rows) <= _FEW
        if kept is not None:
            found = [jnp.where(kept[index], row, 0.0) for index, row in enumerate(found)]
        if few and mixed is not None:
            found = [sum(map(jnp.multiply, part, found)) for part in mixed]
        if few:  # two at a time, without a stacked copy
            return _symmetric(
                [[_product(row, other) for other in found[i:]] for i, row in enumerate(found)]
            )
        stacked = jnp.stack(found)
        if mixed is not None:
            stacked = jnp.tensordot(mixed, stacked, 1, precision="highest")
        return _product(stacked, stacked, 1)

    def squares(self) -> list[Tensor]:
        return [_square(row) for row in self._rows]

    def matrix(self) -> Tensor:
        return jnp.stack([row.reshape(-1) for row in self._rows]).astype("float32")


class _Sliced(_Rows):
    """Slices of rows, as `reduce_scatter` gives them."""

    sliced = True

    def __init__(self, gradients: Sequence[Slice]) -> None:
        self._like = gradients[0]
        super().__init__([gradient.part for gradient in gradients])

    def unflatten(self, flat: Tensor) -> Slice:
        return dataclasses.replace(self._like, part=super().unflatten(flat))


class _Gathered(GatheredRows):
    def rows_of(self, gradients: Sequence[Tensor]) -> _Rows:
        return _Rows(gradients)

    def table(self, gradient: Any) -> Tensor:
        return as_update(gradient)

    def entries(self, table: Tensor) -> Tensor:
        return table[self._like.places].astype(self._like.values.dtype)


def _precision(gradient: Tensor) -> str:
    return "float64" if gradient.dtype == "float64" else "float32"


def _product(one: Tensor, other: Tensor, first: int = 0) -> Tensor:
    """float32 inner products over all axes but the `first`."""
    axes = tuple(range(first, one.ndim))
    return jnp.tensordot(one, other, (axes, axes), precision="highest").astype("float32")


def _symmetric(halves: Sequence[Sequence[Tensor]]) -> Tensor:
    """(k, k) from its upper triangle, () each."""
    flat = jnp.stack([entry for row in halves for entry in row])
    rows, columns = np.triu_indices(len(halves))
    places = np.zeros((len(halves), len(halves)), int)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return flat[places]


def _square(gradient: Tensor) -> Tensor:
    """Its squared norm, wherever its parts are."""
    return jnp.sum(jnp.square(gradient)).astype("float32")


def rows(gradients: Sequence[Any]) -> Rows:
    if any(isinstance(gradient, Gathered) for gradient in gradients):
        if alike(gradients):
            return _Gathered(gradients)
        gradients = [as_update(gradient) for gradient in gradients]
    if isinstance(gradients[0], Slice):
        return _Sliced(gradients)
    return _Spread(gradients) if is_spread() else _Rows(gradients)


def squares(rows: Sequence[Rows]) -> Tensor:
    return jnp.stack([square for each in rows for square in each.squares()])


def has_value(tensor: Tensor) -> bool:
    return not isinstance(tensor, jax.core.Tracer)


def dense(gradient: Any) -> Tensor:
    return as_update(gradient).astype("float32")


def as_update(gradient: Any) -> Tensor:
    return table_of(gradient) if isinstance(gradient, Gathered) else gradient


def _values(gradients: Sequence[Any]) -> list[Any]:
    """What may not be zero of gradients."""
    return [g.values if isinstance(g, Gathered) else g for g in gradients]


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    return total + jnp.where(condition, gradient, 0)


def zeros_like(gradient: Tensor) -> Tensor:
    return jnp.zeros_like(gradient)


def finite(gradients: Sequence[Any]) -> Tensor:
    gradients = _values(gradients)
    # A sum is finite only if every term is.
    if is_spread():
        return jnp.isfinite(sum(jnp.sum(g.astype("float32")) for g in gradients))
    # Long gradients are added up along their last axis by a
    # product with ones, which runs on all cores, and what is left of all of them in one pass.
    sums = [_as_matrix(g) @ jnp.ones(g.shape[-1:]) if g.size > 4096 else g for g in gradients]
    return jnp.isfinite(jnp.sum(jnp.concatenate([s.astype("float32").ravel() for s in sums])))


def in_range(
    gradients: Sequence[Any], values: Sequence[Tensor] = (), exact: bool = False
) -> Tensor:
    del exact  # it always is
    gradients = _values(gradients)
    sliced = [gradient.part for gradient in gradients if isinstance(gradient, Slice)]
    if sliced:
        own = jnp.sum(jnp.stack([_square(part.astype(_precision(part))) for part in sliced]))
        gradients = [gradient for gradient in gradients if not isinstance(gradient, Slice)]
        values = [*values, *summed([own])]
    wide = [gradient.astype(_precision(gradient)) for gradient in gradients]
    sums = [jnp.sum(value.astype("float32")) for value in values]
    if is_spread():
        return jnp.isfinite(jnp.sum(jnp.stack([*map(_square, wide), *sums])))
    short = [gradient.ravel() for gradient in wide if gradient.size <= 4096]
    joined = [jnp.concatenate(short)] if short else []
    flat = [*joined, *(gradient for gradient in wide if gradient.size > 4096)]
    squares = [jnp.vdot(gradient, gradient).astype("float32") for gradient in flat]
    return jnp.isfinite(jnp.sum(jnp.stack([*squares, *sums])))


def _as_matrix(gradient: Tensor) -> Tensor:
    return gradient.astype("float32").reshape(-1, *gradient.shape[-1:])


def stack(scalars: Sequence[Tensor]) -> Tensor:
    return jnp.stack(scalars)


def matmul(first: Tensor, second: Tensor) -> Tensor:
    return jnp.matmul(first, second, precision="highest")
