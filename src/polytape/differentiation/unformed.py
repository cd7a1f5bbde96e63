"""Gradients of objectives that are not formed: by a layer's variables, of what came back to it.

Of T such gradients by one variable the inner products are found with those of one layer in memory
at a time, and their weighted sum with none: cotangents are added up before they meet the inputs.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from keras import layers, ops

from polytape.contract import Tensor
from polytape.differentiation.layer_calls import FEW, LayerCall, has_formula
from polytape.differentiation.layer_rows import Outer, Seen, Whole, by_formula
from polytape.engines import Variable, engine

# How many times larger than a squared norm the square of what its terms add up to may be, so that
# products of sums are exact to some 1e-5. Of independent terms that is their number.
_CANCELLED = 2 * FEW
_PIECE = 2**22  # numbers of rows that exist at a time, where they can be cut


class NotedCall(NamedTuple):
    """A call of a layer; its tensors and states as they came out of the recorded function."""

    call: LayerCall
    tensors: Sequence[Tensor]
    states: Sequence[Tensor]


@dataclass(frozen=True)
class Unformed:
    """The gradient of one objective by a variable that some noted calls use.

    back    {number of a call: what came back to each mark of it}
    beside  the gradient by other uses; None: there are none
    """

    calls: Sequence[NotedCall]
    variable: Variable
    back: Mapping[int, Sequence[Tensor | None]]
    beside: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> str:
        return str(self.variable.dtype)

    def formed(self) -> Tensor:
        """A gradient of the variable."""
        return LayerRows([self]).weighted_sum(ops.ones((1,), "float32"), None)


def formed(gradient: Any) -> Any:
    """A gradient as a tensor; None if it is."""
    return gradient.formed() if isinstance(gradient, Unformed) else gradient


def rows_of_all(gradients: Sequence[Any]) -> Any:
    """`Rows` of the gradients of several objectives by one variable, formed or not."""
    if not any(isinstance(gradient, Unformed) for gradient in gradients):
        return engine().rows(gradients)
    if len(gradients) == 1:
        return engine().rows([formed(gradients[0])])
    return LayerRows([g if isinstance(g, Unformed) else engine().as_update(g) for g in gradients])


class LayerRows:
    """k gradients of one variable, some of them formed: `Rows`."""

    sliced = False

    def __init__(self, gradients: Sequence[Unformed | Tensor]) -> None:
        known = next(each for each in gradients if isinstance(each, Unformed))
        self._calls, self._variable = known.calls, known.variable
        noted = [each.back if isinstance(each, Unformed) else {} for each in gradients]
        self._beside = [e.beside if isinstance(e, Unformed) else e for e in gradients]
        numbers = sorted({number for each in noted for number in each})
        # For each call what came back to its marks, for one objective after the other.
        self._back = {
            number: [
                [each[number][m] if number in each else None for each in noted]
                for m in range(len(self._calls[number].call.marks))
            ]
            for number in numbers
        }

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        uses = self._uses(mixed, kept)
        if any(each is not None for each in self._beside):
            uses.append(_Formed(_combined(self._beside, mixed, kept)))
        return uses[0].gram() if len(uses) == 1 else _products(_added_up(uses))

    def squares(self) -> list[Tensor]:
        return ops.unstack(ops.diagonal(self.gram()), len(self._beside))

    def matrix(self) -> Tensor:
        uses = self._uses(None, None)
        if any(each is not None for each in self._beside):
            uses.append(_Formed(_combined(self._beside, None, None)))
        return _added_up(uses)

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        one = ops.cast(weights, "float32")[None, :]
        found = self.unflatten(_added_up(self._uses(one, kept))[0])
        places = [place for place, each in enumerate(self._beside) if each is not None]
        if not places:
            return found
        beside = engine().rows([self._beside[place] for place in places])
        among = None if kept is None else ops.take(kept, places)
        return ops.add(found, beside.weighted_sum(ops.take(weights, places), among))

    def unflatten(self, flat: Tensor) -> Tensor:
        return ops.cast(ops.reshape(flat, self._variable.shape), self._variable.dtype)

    def _uses(self, mixed: Tensor | None, kept: Tensor | None) -> list["_Use"]:
        """The gradients by noted calls, or combinations of them."""
        found: list[_Use] = []
        for number, marks in self._back.items():
            back = [None if _absent(m) else _combined(m, mixed, kept) for m in marks]
            found.append(_use(self._calls[number], self._variable, back))
        return found


# ---------------------------------------------------------------------- the uses of a variable


class _Use(Protocol):
    """k gradients by one use of a variable."""

    def rows(self) -> Tensor:
        """(k, P) float32."""
        ...

    def gram(self) -> Tensor:
        """(k, k)"""
        ...


@dataclass(frozen=True)
class _Formed:
    """(k, *shape) float32"""

    gradients: Tensor

    def rows(self) -> Tensor:
        return ops.reshape(self.gradients, (self.gradients.shape[0], -1))

    def gram(self) -> Tensor:
        return _products(self.rows())


@dataclass(frozen=True)
class _Products:
    """Sums over L positions of outer products of inputs (L, p), the same ones for all, and
    cotangents (k, L, q).

    shape, order  of a gradient: (p, q) as this shape, its axes in this order
    """

    inputs: Tensor
    cotangents: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def rows(self) -> Tensor:
        found = ops.reshape(self._piece(self.inputs), (-1, *self.shape))
        found = ops.transpose(found, (0, *(axis + 1 for axis in self.order)))
        return ops.reshape(found, (self.cotangents.shape[0], -1))

    def _piece(self, inputs: Tensor) -> Tensor:
        """(k, p, q) for some of the inputs."""
        count, _, q = self.cotangents.shape
        side = ops.reshape(ops.transpose(self.cotangents, (1, 0, 2)), (-1, count * q))
        found = engine().matmul(ops.transpose(inputs), side)
        return ops.transpose(ops.reshape(found, (-1, count, q)), (1, 0, 2))

    def gram(self) -> Tensor:
        length, most = self.cotangents.shape[1], min(FEW, self.inputs.shape[1])
        if length is not None:
            return self._at_once() if length <= most else self._by_pieces()
        few = ops.shape(self.inputs)[0] <= most
        return engine().choose(few, self._at_once, self._by_pieces)

    def _at_once(self) -> Tensor:
        """<X'D_s, X'D_t> = <D_s, (X X') D_t>; by pieces, where the terms of the sums cancel."""
        count, _, q = self.cotangents.shape
        side = ops.reshape(ops.transpose(self.cotangents, (1, 0, 2)), (-1, count * q))
        met = engine().matmul(_products(self.inputs), side)
        met = ops.transpose(ops.reshape(met, (-1, count, q)), (1, 0, 2))
        found = engine().matmul(_flat(self.cotangents), ops.transpose(_flat(met)))
        found = 0.5 * (found + ops.transpose(found))
        sizes = ops.expand_dims(_norms(self.inputs), 1)
        terms = engine().matmul(_norms(self.cotangents), sizes)[:, 0]
        fine = ops.all(ops.diagonal(found) * _CANCELLED >= terms * terms)
        return engine().choose(fine, lambda: found, self._by_pieces)

    def _by_pieces(self) -> Tensor:
        """The rows are formed for some of the inputs at a time."""
        count, _, q = self.cotangents.shape
        p = self.inputs.shape[1]
        number = max(1, -(-p // max(1, _PIECE // (count * q))))
        cuts = [p * place // number for place in range(number + 1)]
        found = [
            _products(ops.reshape(self._piece(self.inputs[:, first:last]), (count, -1)))
            for first, last in itertools.pairwise(cuts)
        ]
        return functools.reduce(ops.add, found)


@dataclass(frozen=True)
class _Pulled:
    """Of any layer: it runs once more, and what came back, (k, ...) for each mark, is pulled."""

    noted: NotedCall
    variable: Variable
    back: Sequence[Tensor | None]

    def rows(self) -> Tensor:
        call = self.noted.call
        place = next(n for n, v in enumerate(call.variables) if v is self.variable)
        values = [ops.stop_gradient(variable.value) for variable in call.variables]

        def again(given: list[Tensor]) -> list[Tensor]:
            known = [*values[:place], *given, *values[place + 1 :]]
            outputs = call.again(known, self.noted.tensors, self.noted.states)
            return [o for o, b in zip(outputs, self.back, strict=True) if b is not None]

        came = [ops.unstack(b, b.shape[0]) for b in self.back if b is not None]
        found = engine().pullbacks(again, [values[place]], [*zip(*came, strict=True)])
        zeros = ops.zeros_like(values[place])
        return _flat(_combined([zeros if row is None else row for (row,) in found], None, None))

    def gram(self) -> Tensor:
        return _products(self.rows())


def _use(noted: NotedCall, variable: Variable, back: Sequence[Tensor | None]) -> _Use:
    call = noted.call
    if has_formula(call.layer) and isinstance(call.layer, _SUMS) and len(noted.tensors) == 1:
        came: Tensor = back[0]
        count = came.shape[0]
        every = ops.reshape(came, (-1, *came.shape[2:]))  # as if each came of a pass of its own
        found = (by_formula(Seen(call, *noted[1:], [every], 1)) or {}).get(id(variable))
        if isinstance(found, Whole):
            rows = ops.reshape(found.rows(), (count, -1, math.prod(variable.shape)))
            return _Formed(ops.sum(rows, axis=1))
        if isinstance(found, Outer):
            p, q = found.inputs.shape[2], found.cotangents.shape[2]
            inputs = ops.reshape(found.inputs, (-1, p))
            cotangents = ops.reshape(found.cotangents, (count, _length(inputs), q))
            return _Products(inputs, cotangents, found.shape, found.order)
    return _Pulled(noted, variable, back)


_SUMS = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)


def _length(inputs: Tensor) -> int:
    return -1 if inputs.shape[0] is None else inputs.shape[0]


def _absent(given: Sequence[Tensor | None]) -> bool:
    return all(each is None for each in given)


def _combined(given: Sequence[Tensor | None], mixed: Tensor | None, kept: Tensor | None) -> Tensor:
    """(k, ...) float32 of k tensors, zeros for None; or (m, ...) combinations of them.

    mixed  (m, k);  kept  (k,) bool: those that are read
    """
    like = next(each for each in given if each is not None)
    zeros = ops.zeros_like(like)
    found = ops.stack(
        [ops.cast(zeros if e is None else engine().dense(e), "float32") for e in given]
    )
    if kept is not None:
        found = ops.where(ops.reshape(kept, (-1, *[1] * len(like.shape))), found, 0.0)
    if mixed is None:
        return found
    sums = engine().matmul(ops.cast(mixed, "float32"), _flat(found))
    return ops.reshape(sums, (mixed.shape[0], *_shape(like)))


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    """Of which one axis may be known to the step only."""
    return tuple(-1 if size is None else size for size in tensor.shape)


def _added_up(uses: Sequence[_Use]) -> Tensor:
    return functools.reduce(ops.add, [use.rows() for use in uses])


def _flat(tensor: Tensor) -> Tensor:
    return ops.reshape(tensor, (tensor.shape[0], -1))


def _norms(tensor: Tensor) -> Tensor:
    """(...) of (..., n)"""
    return ops.sqrt(ops.sum(ops.square(tensor), axis=-1))


def _products(rows: Tensor) -> Tensor:
    return engine().matmul(rows, ops.transpose(rows))
