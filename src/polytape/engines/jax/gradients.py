"""The gradients of several objectives by one variable."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from polytape.engines.contract import Tensor

_SHORT = 16384  # entries of a row


class _Rows:
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
def _gram(rows: list[Tensor], mixed: Tensor | None, kept: Tensor | None) -> Tensor:
    # Long rows in as many pieces as there are rows, one after the other, so that stacking them
    # never holds more than one row on top of the rows themselves; short pieces also accumulate
    # less rounding error.
    count, size = len(rows), rows[0].size
    pieces = min(count, 16) if size > _SHORT else 1
    width = size // pieces

    def product(start: Tensor, width: int) -> Tensor:
        cut = [jax.lax.dynamic_slice_in_dim(row, start, width) for row in rows]
        piece = jnp.stack(cut)
        if kept is not None:
            piece = jnp.where(kept[:, None], piece, 0.0)
        if mixed is not None:
            piece = jnp.matmul(mixed, piece, precision="highest")
        return jnp.matmul(piece, piece.T, precision="highest").astype("float32")

    total = product(pieces * width, size - pieces * width)
    if pieces == 1:
        return total + product(0, width)
    return jax.lax.fori_loop(0, pieces, lambda i, total: total + product(i * width, width), total)


def _precision(gradient: Tensor) -> str:
    return "float64" if gradient.dtype == "float64" else "float32"


def rows(gradients: Sequence[Tensor]) -> _Rows:
    return _Rows(gradients)


def has_value(tensor: Tensor) -> bool:
    return not isinstance(tensor, jax.core.Tracer)


def dense(gradient: Tensor) -> Tensor:
    return gradient.astype("float32")


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    return total + jnp.where(condition, gradient, 0)


def zeros_like(gradient: Tensor) -> Tensor:
    return jnp.zeros_like(gradient)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    # A sum is finite only if every term is. Long gradients are added up along their last axis by a
    # product with ones, which runs on all cores, and what is left of all of them in one pass.
    sums = [_as_matrix(g) @ jnp.ones(g.shape[-1:]) if g.size > 4096 else g for g in gradients]
    return jnp.isfinite(jnp.sum(jnp.concatenate([s.astype("float32").ravel() for s in sums])))


def in_range(
    gradients: Sequence[Tensor], values: Sequence[Tensor] = (), exact: bool = False
) -> Tensor:
    del exact  # it always is
    wide = [gradient.astype(_precision(gradient)) for gradient in gradients]
    short = [gradient.ravel() for gradient in wide if gradient.size <= 4096]
    joined = [jnp.concatenate(short)] if short else []
    flat = [*joined, *(gradient for gradient in wide if gradient.size > 4096)]
    squares = [jnp.vdot(gradient, gradient).astype("float32") for gradient in flat]
    sums = [jnp.sum(value.astype("float32")) for value in values]
    return jnp.isfinite(jnp.sum(jnp.stack([*squares, *sums])))


def _as_matrix(gradient: Tensor) -> Tensor:
    return gradient.astype("float32").reshape(-1, *gradient.shape[-1:])


def stack(scalars: Sequence[Tensor]) -> Tensor:
    return jnp.stack(scalars)
