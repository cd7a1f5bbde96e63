"""The gradients of several objectives by one variable."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from polytape.engines.contract import Rows, Tensor
from polytape.engines.gathered import Gathered, GatheredRows, alike
from polytape.engines.torch.lookups import table_of

_SHORT = 2**16  # entries of a row that is kept side by side with the others
_PIECE = 2**19  # numbers of a piece of longer ones, of all rows: it stays in a cache


class _Rows:
    """Rows as they lie: what needs them side by side takes them piece by piece.

    Short ones are put side by side, those of several variables in one matrix: operations of an
    eager framework cost more to be called than to be done. Those that lie so already are taken as
    they are.
    """

    sliced = False

    def __init__(self, columns: Sequence[Sequence[Tensor]]) -> None:
        self._columns = columns
        first = columns[0][0]
        self._dtype, self._count = first.dtype, len(columns[0])
        self._precision = torch.float64 if first.dtype == torch.float64 else torch.float32
        self._size = sum(column[0].numel() for column in columns)
        self._matrices = self._side_by_side()

    def _side_by_side(self) -> list[Tensor]:
        """(k, n) of each variable, or of all; none of rows that are long and lie by themselves."""
        bases = [base for column in self._columns if (base := _base(column)) is not None]
        if len(bases) == len(self._columns):
            flat = [base.reshape(len(base), base.numel() // len(base)) for base in bases]
            return [matrix.to(self._precision) for matrix in flat]
        if len(self._columns) > 1 or self._size <= _SHORT:
            return [self._piece(0, self._size)]
        return []

    def _piece(self, start: int, stop: int) -> Tensor:
        """(k, stop - start), of all rows or of the one variable that has long ones."""
        columns = self._columns
        if stop - start != self._size:
            columns = [[row.reshape(-1)[start:stop] for row in column] for column in columns]
        if self._dtype is not self._precision:
            columns = [[row.to(self._precision) for row in column] for column in columns]
        count = self._count
        if count == 1:
            return columns[0][0].reshape(1, stop - start)
        sides = [torch.stack(tuple(column)) for column in columns]
        if len(sides) == 1:
            return sides[0].reshape(count, stop - start)
        return torch.cat([side.reshape(count, side.numel() // count) for side in sides], 1)

    def _pieces(self, kept: Tensor | None) -> Iterator[Tensor]:
        """(k, width) each, zero where a row is not kept, one after the other."""
        width = max(_PIECE // self._count, 1)
        for whole in self._matrices or [None]:
            size = self._size if whole is None else whole.shape[1]
            for start in range(0, max(size, 1), width):
                stop = min(start + width, size)
                if whole is None:
                    piece = self._piece(start, stop)
                else:
                    piece = whole if stop - start == size else whole[:, start:stop]
                yield _kept(piece, kept)

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        found = []
        for piece in self._pieces(kept):
            taken = piece if mixed is None else mixed.to(piece.dtype) @ piece
            found.append(taken @ taken.T)
        return (found[0] if len(found) == 1 else torch.stack(found).sum(0)).to(torch.float32)

    @property
    def single(self) -> Tensor | None:
        """The gradient, if there is but one and it is short."""
        return self._columns[0][0] if self._count == 1 and self._size <= _SHORT else None

    def squares(self) -> list[Tensor]:
        if self._matrices:
            found = [matrix.square().sum(1) for matrix in self._matrices]
            total = found[0] if len(found) == 1 else torch.stack(found).sum(0)
            return list(total.to(torch.float32).unbind())
        rows = [row.reshape(-1).to(self._precision) for row in self._columns[0]]
        return [torch.dot(row, row).to(torch.float32) for row in rows]

    def matrix(self) -> Tensor:
        return self._piece(0, self._size).to(torch.float32)

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        weights = weights.to(self._precision)
        if self._matrices:
            flat = [weights @ _kept(matrix, kept) for matrix in self._matrices]
            return self.unflatten(flat[0] if len(flat) == 1 else torch.cat(flat))
        whole = torch.empty(self._size, dtype=self._precision, device=self._columns[0][0].device)
        start = 0
        for piece in self._pieces(kept):
            stop = start + piece.shape[1]
            torch.mv(piece.T, weights, out=whole[start:stop])
            start = stop
        return self.unflatten(whole)

    def unflatten(self, flat: Tensor) -> Tensor:
        flat = flat.to(self._dtype)
        return flat.reshape(self._columns[0][0].shape) if len(self._columns) == 1 else flat


def _base(column: Sequence[Tensor]) -> Tensor | None:
    """(k, *shape) of k gradients that lie one after the other; None if they do not."""
    base = column[0]._base
    if base is None or base.shape != (len(column), *column[0].shape) or not base.is_contiguous():
        return None
    start, size = base.storage_offset(), column[0].numel()
    for place, gradient in enumerate(column):
        if gradient._base is not base or gradient.storage_offset() != start + place * size:
            return None
    return base


def _kept(rows: Tensor, kept: Tensor | None) -> Tensor:
    """(k, n), zero where a row is not kept."""
    return rows if kept is None else torch.where(kept[:, None], rows, torch.zeros_like(rows))


class _Gathered(GatheredRows):
    def rows_of(self, gradients: Sequence[Tensor]) -> _Rows:
        return _Rows([gradients])

    def table(self, gradient: Any) -> Tensor:
        return as_update(gradient)

    def entries(self, table: Tensor) -> Tensor:
        return table[self._like.places].to(self._like.values.dtype)


def rows(gradients: Sequence[Any]) -> Rows:
    if any(isinstance(gradient, Gathered) for gradient in gradients):
        if alike(gradients):
            return _Gathered(gradients)
        gradients = [as_update(gradient) for gradient in gradients]
    return _Rows([gradients])


def side_by_side(columns: Sequence[Sequence[Any]]) -> list[list[int]]:
    alone: list[list[int]] = []
    together: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for place, column in enumerate(columns):
        first = column[0]
        formed = all(isinstance(gradient, torch.Tensor) for gradient in column)
        if formed and len(column) > 1 and first.numel() <= _SHORT:
            together.setdefault((first.dtype, first.device), []).append(place)
        else:
            alone.append([place])
    return [*together.values(), *alone]


def together(columns: Sequence[Sequence[Tensor]]) -> Rows:
    return _Rows(columns)


def split(direction: Tensor, columns: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    parts = direction.split([column[0].numel() for column in columns])
    return [part.view(column[0].shape) for part, column in zip(parts, columns, strict=True)]


def squares(rows: Sequence[Rows]) -> Tensor:
    found: list[Tensor] = []
    for alone, group in itertools.groupby(rows, key=lambda each: _single(each) is not None):
        if alone:  # as private variables are
            short = [_single(each) for each in group]
            found.append(_norms([each for each in short if each is not None]).square())
        else:
            found += [torch.stack(each.squares()) for each in group]
    found = [each.to(torch.float32) for each in found]
    return found[0] if len(found) == 1 else torch.cat(found)


def _single(rows: Rows) -> Tensor | None:
    """The one gradient of rows that are but one, and short."""
    return rows.single if isinstance(rows, _Rows) else None


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
    fine = torch.isfinite(_norms(_values(gradients)).square().sum().to(torch.float32))
    return fine & finite(values) if values else fine


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """(n,) float32, or float64 if one of them is."""
    exact = (torch.float32, torch.float64)
    wide = [each if each.dtype in exact else each.to(torch.float32) for each in gradients]
    return torch.stack(torch._foreach_norm(wide)) if wide else torch.zeros(0)


def stack(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(scalars))


def matmul(first: Tensor, second: Tensor) -> Tensor:
    return first @ second
