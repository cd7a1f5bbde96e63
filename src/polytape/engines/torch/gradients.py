"""The gradients of several objectives by one variable."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from polytape.engines.contract import Rows, Tensor
from polytape.engines.gathered import Gathered, GatheredRows, alike
from polytape.engines.torch.lookups import table_of

_SHORT = 2**16  # entries of a row that is kept side by side with the others
_PIECE = 2**20  # entries of a piece of longer ones


class _Rows:
    """Rows as they lie: what needs them side by side takes them piece by piece."""

    sliced = False

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._shape, self._dtype = gradients[0].shape, gradients[0].dtype
        self._precision = _precision(gradients[0])
        self._rows = [gradient.reshape(-1) for gradient in gradients]
        self._size = self._rows[0].numel()
        self._whole = self._piece(0, self._size) if self._size <= _SHORT else None

    def _piece(self, start: int, stop: int) -> Tensor:
        rows = self._rows if stop - start == self._size else [r[start:stop] for r in self._rows]
        if rows[0].dtype is not self._precision:
            rows = [row.to(self._precision) for row in rows]
        return torch.stack(rows) if len(rows) > 1 else rows[0][None]

    def _pieces(self, kept: Tensor | None) -> Iterator[tuple[Tensor, int, int]]:
        """(k, width) each, zero where a row is not kept; where it begins and where it ends."""
        for start in range(0, max(self._size, 1), _PIECE):
            stop = min(start + _PIECE, self._size)
            piece = self._piece(start, stop) if self._whole is None else self._whole
            if kept is not None:
                piece = torch.where(kept[:, None], piece, torch.zeros_like(piece))
            yield piece, start, stop

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        found = []
        for piece, _, _ in self._pieces(kept):
            taken = piece if mixed is None else mixed.to(piece.dtype) @ piece
            found.append(taken @ taken.T)
        return (found[0] if len(found) == 1 else torch.stack(found).sum(0)).to(torch.float32)

    def squares(self) -> list[Tensor]:
        rows = (
            [row.to(self._precision) for row in self._rows] if self._whole is None else self._whole
        )
        return [torch.dot(row, row).to(torch.float32) for row in rows]

    def matrix(self) -> Tensor:
        return self._piece(0, self._size).to(torch.float32)

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        weights = weights.to(self._precision)
        if self._whole is not None:
            ((piece, _, _),) = self._pieces(kept)
            return self.unflatten(weights @ piece)
        flat = torch.empty(self._size, dtype=self._precision, device=self._rows[0].device)
        for piece, start, stop in self._pieces(kept):
            torch.mv(piece.T, weights, out=flat[start:stop])
        return self.unflatten(flat)

    def unflatten(self, flat: Tensor) -> Tensor:
        return flat.reshape(self._shape).to(self._dtype)


class _Gathered(GatheredRows):
    def rows_of(self, gradients: Sequence[Tensor]) -> _Rows:
        return _Rows(gradients)

    def table(self, gradient: Any) -> Tensor:
        return as_update(gradient)

    def entries(self, table: Tensor) -> Tensor:
        return table[self._like.places].to(self._like.values.dtype)


def _precision(gradient: Tensor) -> torch.dtype:
    return torch.float64 if gradient.dtype == torch.float64 else torch.float32


def rows(gradients: Sequence[Any]) -> Rows:
    if any(isinstance(gradient, Gathered) for gradient in gradients):
        if alike(gradients):
            return _Gathered(gradients)
        gradients = [as_update(gradient) for gradient in gradients]
    return _Rows(gradients)


def has_value(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and not torch.compiler.is_compiling()


def dense(gradient: Any) -> Tensor:
    return as_update(gradient).to(torch.float32)


def as_update(gradient: Any) -> Tensor:
    return table_of(gradient) if isinstance(gradient, Gathered) else gradient


def _values(gradients: Sequence[Any]) -> list[Tensor]:
    """What may not be zero of gradients."""
    return [g.values if isinstance(g, Gathered) else g for g in gradients]


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    return total + torch.where(condition, gradient, torch.zeros_like(gradient))


def zeros_like(gradient: Tensor) -> Tensor:
    return torch.zeros_like(gradient)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    sums = [gradient.sum(dtype=torch.float32) for gradient in _values(gradients)]
    return torch.isfinite(torch.stack(sums)).all()


def in_range(
    gradients: Sequence[Tensor], values: Sequence[Tensor] = (), exact: bool = False
) -> Tensor:
    del exact  # it always is
    norms = [_norm(gradient) for gradient in _values(gradients)]
    sums = [0.0 * value.sum(dtype=torch.float32) for value in values]  # zero if finite, else NaN
    return torch.isfinite(torch.stack([*norms, *sums]).square().sum())


def _norm(gradient: Tensor) -> Tensor:
    if gradient.dtype == torch.float64:
        return torch.linalg.vector_norm(gradient).to(torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=torch.float32)


def stack(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(scalars))


def matmul(first: Tensor, second: Tensor) -> Tensor:
    return first @ second
