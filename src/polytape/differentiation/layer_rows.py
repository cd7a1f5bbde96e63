"""The gradients of a batch's examples by one variable, kept as the factors that they are made of.

For a dense layer with inputs x_i and cotangents d_i of its outputs the gradient of example i is
the outer product of both, and the inner product of two of them is (x_i . x_j) (d_i . d_j): no
gradient need be formed. With time steps or pixels it is a sum of outer products, and the cheaper of
two ways is taken. Here n is the number of rows: of examples, times that of the backward passes.
"""

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from keras import layers, ops

from polytape.contract import Tensor
from polytape.differentiation.layer_calls import USUAL, LayerCall, has_formula
from polytape.engines import engine


class ExampleRows(Protocol):
    """n gradients of one variable."""

    @property
    def count(self) -> Any:
        """n: a number, or () int where only the step knows it."""
        ...

    def rows(self) -> Tensor:
        """(n, P) float32: each of them, flat."""
        ...

    def gram(self) -> Tensor:
        """(n, n) their inner products."""
        ...

    def weighted(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        """sum_i weights[i] * row_i, in the shape of the variable.

        kept  (n,) bool: rows that are read at all; None reads them all
        """
        ...


@dataclass(frozen=True)
class Whole:
    """Gradients that exist: (n, *shape)."""

    gradients: Tensor

    @property
    def count(self) -> Any:
        return count_of(self.gradients)

    def rows(self) -> Tensor:
        return _flat(self.gradients)

    def gram(self) -> Tensor:
        return _products(self.rows())

    def weighted(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        return ops.reshape(_sum_of(self.rows(), weights, kept), self.gradients.shape[1:])


@dataclass(frozen=True)
class Outer:
    """Sums over L of outer products of inputs (n, L, p) and cotangents (n, L, q).

    shape, order  of a gradient: (p, q) as this shape, its axes in this order
    """

    inputs: Tensor
    cotangents: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def count(self) -> Any:
        return count_of(self.cotangents)

    def rows(self) -> Tensor:
        products = _matmul(ops.transpose(self.inputs, (0, 2, 1)), self.cotangents)
        products = ops.reshape(products, (-1, *self.shape))
        return _flat(ops.transpose(products, (0, *(axis + 1 for axis in self.order))))

    def gram(self) -> Tensor:
        length, p = self.inputs.shape[1:]
        count, q = self.inputs.shape[0] or USUAL, self.cotangents.shape[2]
        if length == 1:
            return _products(self.inputs[:, 0]) * _products(self.cotangents[:, 0])
        if length is None or count * length**2 * (p + q) >= (length + count) * p * q:
            return _products(self.rows())
        both = [_products(ops.reshape(x, (-1, x.shape[2]))) for x in (self.inputs, self.cotangents)]
        return ops.sum(
            ops.reshape(both[0] * both[1], (-1, length, count_of(self.inputs), length)), (1, 3)
        )

    def weighted(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        inputs, cotangents = _kept(self.inputs, kept), _kept(self.cotangents, kept)
        a, b = (ops.reshape(x, (-1, x.shape[2])) for x in (inputs, _times(cotangents, weights)))
        product = ops.reshape(_matmul(ops.transpose(a), b), self.shape)
        return ops.transpose(product, self.order)


@dataclass(frozen=True)
class Kernel:
    """Of a convolution: for each place of the kernel the outer product with a shifted input.

    inputs      (n, *spatial, channels), padded;  cotangents (n, *out, channels)
    size, strides, dilation  of each spatial axis;  groups  of channels;  shape  of the kernel
    """

    inputs: Tensor
    cotangents: Tensor
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    shape: tuple[int, ...]

    @property
    def count(self) -> Any:
        return count_of(self.cotangents)

    def _shifted(self, inputs: Tensor) -> list[Tensor]:
        """(n, *out, channels) for each place of the kernel."""
        out, found = self.cotangents.shape[1:-1], []
        for number in range(math.prod(self.size)):
            slices: list[slice] = []
            place = number
            for axis in reversed(range(len(self.size))):
                start = (place % self.size[axis]) * self.dilation[axis]
                stop = start + (out[axis] - 1) * self.strides[axis] + 1
                slices.insert(0, slice(start, stop, self.strides[axis]))
                place //= self.size[axis]
            found.append(inputs[(slice(None), *slices)])
        return found

    def rows(self) -> Tensor:
        area = math.prod(self.cotangents.shape[1:-1])
        cotangents = ops.reshape(self.cotangents, (-1, area, self.cotangents.shape[-1]))
        return _flat(
            ops.stack(
                [
                    self._product(ops.reshape(x, (-1, area, x.shape[-1])), cotangents)
                    for x in self._shifted(self.inputs)
                ],
                axis=1,
            )
        )

    @cached_property
    def _rows(self) -> Tensor:
        return self.rows()

    @property
    def _stay(self) -> bool:
        """Whether rows are kept: they take little beside what the layer takes in and gives out."""
        own = [math.prod(x.shape[1:]) for x in (self.inputs, self.cotangents)]
        return math.prod(self.shape) <= _LITTLE * sum(own)

    def gram(self) -> Tensor:
        return _products(self._rows if self._stay else self.rows())

    def weighted(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        if self._stay:
            return ops.reshape(_sum_of(self._rows, weights, kept), self.shape)
        cotangents = _times(_kept(self.cotangents, kept), weights)
        cotangents = ops.reshape(cotangents, (1, -1, cotangents.shape[-1]))
        found = [
            self._product(ops.reshape(x, (1, -1, x.shape[-1])), cotangents)
            for x in self._shifted(_kept(self.inputs, kept))
        ]
        return ops.reshape(ops.stack(found), self.shape)

    def _product(self, inputs: Tensor, cotangents: Tensor) -> Tensor:
        """(n, p, q), or the same by groups of channels, of (n, L, p) and (n, L, q)."""
        if self.groups == 1:
            return _matmul(ops.transpose(inputs, (0, 2, 1)), cotangents)
        length, (p, q) = inputs.shape[1], (x.shape[2] // self.groups for x in (inputs, cotangents))
        a = ops.reshape(inputs, (-1, length or count_of(inputs[0]), self.groups, p))
        b = ops.reshape(cotangents, (-1, length or count_of(inputs[0]), self.groups, q))
        found = _matmul(ops.transpose(a, (0, 2, 3, 1)), ops.transpose(b, (0, 2, 1, 3)))
        return ops.reshape(ops.transpose(found, (0, 2, 1, 3)), (-1, p, self.groups * q))


@dataclass(frozen=True)
class Lookup:
    """Of an embedding: indices (n, L) and cotangents (n, L, q) of what was looked up."""

    indices: Tensor
    cotangents: Tensor
    shape: tuple[int, ...]

    @property
    def count(self) -> Any:
        return count_of(self.cotangents)

    def rows(self) -> Tensor:
        count, size = count_of(self.cotangents), self.shape[0]
        places = ops.cast(self.indices, "int32") + size * ops.arange(count, dtype="int32")[:, None]
        cotangents = ops.reshape(self.cotangents, (-1, self.shape[1]))
        # A constant number of segments is what compilers need; of a batch of unknown size a sum
        # over one-hot vectors does the same.
        if isinstance(count, int):
            found = ops.segment_sum(cotangents, ops.reshape(places, (-1,)), count * size)
            return ops.reshape(found, (-1, math.prod(self.shape)))
        hot = ops.one_hot(self.indices, size, dtype="float32")
        return _flat(_matmul(ops.transpose(hot, (0, 2, 1)), self.cotangents))

    def gram(self) -> Tensor:
        indices = ops.reshape(self.indices, (-1,))
        length, count = self.indices.shape[1], self.indices.shape[0] or USUAL
        if length is None or count * length**2 > math.prod(self.shape):
            return _products(self.rows())
        same = ops.cast(ops.equal(indices[:, None], indices[None, :]), "float32")
        products = same * _products(ops.reshape(self.cotangents, (-1, self.shape[1])))
        products = ops.reshape(products, (-1, length, count_of(self.cotangents), length))
        return ops.sum(products, (1, 3))

    def weighted(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        cotangents = _times(_kept(self.cotangents, kept), weights)
        cotangents = ops.reshape(cotangents, (-1, self.shape[1]))
        indices = ops.cast(ops.reshape(self.indices, (-1,)), "int32")
        return ops.segment_sum(cotangents, indices, self.shape[0])


@dataclass(frozen=True)
class Several:
    """Of a variable that is used several times: the sums of its gradients by each use."""

    uses: Sequence[ExampleRows]

    @property
    def count(self) -> Any:
        return self.uses[0].count

    def rows(self) -> Tensor:
        return sum((use.rows() for use in self.uses[1:]), start=self.uses[0].rows())

    def gram(self) -> Tensor:
        return _products(self.rows())

    def weighted(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        found = [use.weighted(weights, kept) for use in self.uses]
        return sum(found[1:], start=found[0])


def together(uses: Sequence[ExampleRows]) -> ExampleRows:
    """The gradients by a variable from those by each of its uses."""
    first = uses[0]
    if len(uses) == 1:
        return first
    kinds = {(type(use), getattr(use, "shape", None), getattr(use, "order", None)) for use in uses}
    if len(kinds) == 1 and isinstance(first, (Outer, Lookup)):  # one with as many more terms
        names = ("inputs" if isinstance(first, Outer) else "indices", "cotangents")
        joined = {
            name: ops.concatenate([getattr(use, name) for use in uses], axis=1) for name in names
        }
        rest = {"order": first.order} if isinstance(first, Outer) else {}
        return type(first)(**joined, shape=first.shape, **rest)
    return Several(uses)


# ---------------------------------------------------------------------- from a call of a layer


class Seen(NamedTuple):
    """A call of a layer as it is to be differentiated.

    tensors     of its arguments, and values of what it may change, as the recorded function gave
                them
    cotangents  (n, ...) float32 of each of its marked outputs, one pass after the other, None
                where nothing comes back;  passes  how many
    """

    call: LayerCall
    tensors: Sequence[Tensor]
    states: Sequence[Tensor]
    cotangents: Sequence[Tensor | None]
    passes: int

    @property
    def inputs(self) -> Tensor:
        """(n, ...) float32 of the only argument, once for each pass."""
        return self.repeated(_single(self.tensors[0]))

    @property
    def given(self) -> Tensor:
        """The cotangents of the only output."""
        return self.cotangents[0]

    def repeated(self, tensor: Tensor) -> Tensor:
        return ops.concatenate([tensor] * self.passes) if self.passes > 1 else tensor


Found = dict[int, ExampleRows]  # {id of a variable: its gradients}


def rows_of(seen: Seen) -> Found:
    """{id of a variable: its gradients} by one call of a layer, which has some."""
    found = by_formula(seen)
    return _pulled_back(seen) if found is None else found


def by_formula(seen: Seen) -> Found | None:
    """The same from inputs and cotangents; None where the layer has no formula."""
    call = seen.call
    if not has_formula(call.layer) or not len(seen.tensors) == len(seen.cotangents) == 1:
        return None
    found = _FORMULAS[type(call.layer)](seen)
    wanted = {id(variable) for variable in call.variables}
    return found and {key: rows for key, rows in found.items() if key in wanted}


def _pulled_back(seen: Seen) -> Found:
    """The same for any layer: it runs once more, and each row is pulled back through it."""
    call = seen.call
    values = [ops.stop_gradient(variable.value) for variable in call.variables]

    def scores(values: Sequence[Tensor]) -> Tensor:
        """(n,) whose derivatives are the rows."""
        outputs = call.again(values, seen.tensors, seen.states)
        found = [
            ops.sum(_flat(seen.repeated(_single(output)) * given), axis=1)
            for output, given in zip(outputs, seen.cotangents, strict=True)
            if given is not None
        ]
        return sum(found[1:], start=found[0])

    gradients = engine().jacobian(scores, values)
    pairs = zip(call.variables, gradients, strict=True)
    return {id(v): Whole(_single(rows)) for v, rows in pairs if rows is not None}


def _dense(seen: Seen) -> Found | None:
    layer = seen.call.layer
    shape = tuple(layer.kernel.shape)
    rows = Outer(_three(seen.inputs), _three(seen.given), shape, (0, 1))
    return _with_bias(layer, rows, seen.given)


def _einsum(seen: Seen) -> Found | None:
    layer = seen.call.layer
    into, kernel, out = _labels(layer.equation, len(seen.inputs.shape))
    summed = [label for label in kernel if label in into and label not in out]
    made = [label for label in kernel if label in out and label not in into]
    over = [label for label in into[1:] if label in out]
    fits = into[0] == out[0] and {*summed, *made} == {*kernel}
    fits = fits and {*into[1:]} == {*summed, *over} and {*out[1:]} == {*made, *over}
    inputs, given = seen.inputs, seen.given
    if not fits or None in (*inputs.shape[1:], *given.shape[1:]):
        return None

    def apart(tensor: Tensor, labels: str, last: Sequence[str]) -> Tensor:
        """(n, L, p): the axes that both tensors have in the middle."""
        moved = ops.transpose(tensor, [labels.index(x) for x in (labels[0], *over, *last)])
        sizes = moved.shape[1:]
        area, rest = math.prod(sizes[: len(over)]), math.prod(sizes[len(over) :])
        return ops.reshape(moved, (-1, area, rest))

    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    axes = [*summed, *made]
    shape = tuple(int(sizes[label]) for label in axes)
    order = tuple(axes.index(label) for label in kernel)
    rows = Outer(apart(inputs, into, summed), apart(given, out, made), shape, order)
    return _with_bias(layer, rows, given)


def _labels(equation: str, rank: int) -> tuple[str, str, str]:
    """The labels of inputs, kernel and outputs, with letters for the axes that dots stand for."""
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    operands, out = equation.replace(" ", "").split("->")
    into, kernel = operands.split(",")
    more = "".join(unused[: rank - len(into.replace("...", ""))])
    return into.replace("...", more), kernel, out.replace("...", more)


def _convolution(seen: Seen) -> Found | None:
    layer, x, d = seen.call.layer, seen.inputs, seen.given
    rank = len(x.shape) - 2
    if layer.data_format == "channels_first":
        x, d = (ops.moveaxis(tensor, 1, -1) for tensor in (x, d))
    size, strides, dilation = (
        _each(number, rank) for number in (layer.kernel_size, layer.strides, layer.dilation_rate)
    )
    if None in (*x.shape[1:], *d.shape[1:]) or math.prod(size) > _MANY:
        return None
    pads = [
        _padding(layer.padding, *numbers)
        for numbers in zip(x.shape[1:-1], size, strides, dilation, strict=True)
    ]
    if any(before or after for before, after in pads):
        x = ops.pad(x, [(0, 0), *pads, (0, 0)])
    depthwise = isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    groups = x.shape[-1] if depthwise else layer.groups
    rows = Kernel(x, d, size, strides, dilation, groups, tuple(layer.kernel.shape))
    return _with_bias(layer, rows, d)


def _lookup(seen: Seen) -> Found | None:
    embeddings, given = seen.call.layer.embeddings, seen.given
    indices = seen.repeated(ops.cast(seen.tensors[0], "int32"))
    shape = tuple(embeddings.shape)
    length = -1 if None in indices.shape[1:] else math.prod(indices.shape[1:])
    indices = ops.reshape(indices, (count_of(indices), length))
    return {
        id(embeddings): Lookup(
            indices, ops.reshape(given, (count_of(given), length, shape[1])), shape
        )
    }


def _affine(seen: Seen) -> Found | None:
    """Of scale and offset along the last axis, behind what nothing is trained in."""
    call, layer, given = seen.call, seen.call.layer, seen.given
    axis, last = layer.axis, len(given.shape) - 1
    if axis not in (-1, last, [-1], [last], (-1,), (last,)):
        return None
    offset = layer.beta if layer.__class__ is not layers.RMSNormalization else None
    scale = layer.scale if layer.__class__ is layers.RMSNormalization else layer.gamma
    found: Found = {}
    if offset is not None:
        found[id(offset)] = Whole(_summed(given, offset.shape))
    if any(variable is scale for variable in call.variables):
        neutral = [
            ops.ones_like(v.value) if v is scale else ops.zeros_like(v.value)
            for v in call.variables
        ]
        (plain,) = call.again(neutral, seen.tensors, seen.states)
        found[id(scale)] = Whole(_summed(seen.repeated(_single(plain)) * given, scale.shape))
    return found


_FORMULAS: dict[type, Callable[[Seen], Found | None]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.DepthwiseConv1D: _convolution,
    layers.DepthwiseConv2D: _convolution,
    layers.Embedding: _lookup,
    layers.LayerNormalization: _affine,
    layers.GroupNormalization: _affine,
    layers.BatchNormalization: _affine,
    layers.RMSNormalization: _affine,
}
_LITTLE = 4
_MANY = 64  # places of a kernel, each of which is a product of its own


def _with_bias(layer: Any, kernel: ExampleRows, given: Tensor) -> Found:
    found: Found = {id(layer.kernel): kernel}
    if layer.bias is not None:
        found[id(layer.bias)] = Whole(_summed(given, layer.bias.shape))
    return found


def _summed(given: Tensor, shape: Sequence[int]) -> Tensor:
    """(n, *shape): summed over what a variable of this shape was broadcast to, row by row."""
    between = range(1, len(given.shape) - len(shape))
    found = ops.sum(given, axis=tuple(between)) if between else given
    spread = [axis for axis, size in enumerate(shape, start=1) if size == 1 != found.shape[axis]]
    return ops.sum(found, axis=tuple(spread), keepdims=True) if spread else found


def _padding(padding: str, length: int, size: int, stride: int, dilation: int) -> tuple[int, int]:
    """What Keras pads an axis with, before and behind."""
    reach = dilation * (size - 1)
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    both = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
    return both // 2, both - both // 2


def _each(number: Any, rank: int) -> tuple[int, ...]:
    return (number,) * rank if isinstance(number, int) else tuple(number)


def _three(tensor: Tensor) -> Tensor:
    """(n, L, p) of (n, ..., p)."""
    if len(tensor.shape) == 2:
        return ops.expand_dims(tensor, 1)
    if len(tensor.shape) == 3:
        return tensor
    return ops.reshape(tensor, (count_of(tensor), -1, tensor.shape[-1]))


def count_of(tensor: Tensor) -> Any:
    """The length of the first axis: a number, or () int where only the step knows it."""
    return ops.shape(tensor)[0]


def _single(tensor: Tensor) -> Tensor:
    return ops.cast(tensor, "float32")


def _flat(tensor: Tensor) -> Tensor:
    """(n, P)"""
    if len(tensor.shape) == 1:
        return ops.expand_dims(tensor, 1)
    size = -1 if None in tensor.shape[1:] else math.prod(tensor.shape[1:])
    return ops.reshape(tensor, (count_of(tensor), size))


def _matmul(first: Tensor, second: Tensor) -> Tensor:
    return engine().matmul(first, second)


def _products(rows: Tensor) -> Tensor:
    return _matmul(rows, ops.transpose(rows))


def _sum_of(rows: Tensor, weights: Tensor, kept: Tensor | None) -> Tensor:
    """(P,) the weighted sum of rows (n, P)."""
    return _matmul(ops.expand_dims(weights, 0), _kept(rows, kept))[0]


def _along(vector: Tensor, tensor: Tensor) -> Tensor:
    return ops.reshape(vector, (-1, *[1] * (len(tensor.shape) - 1)))


def _times(tensor: Tensor, weights: Tensor) -> Tensor:
    return tensor * _along(weights, tensor)


def _kept(tensor: Tensor, kept: Tensor | None) -> Tensor:
    return tensor if kept is None else ops.where(_along(kept, tensor), tensor, 0.0)
