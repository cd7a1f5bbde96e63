"""Calls of layers noted in a forward pass: what went in, and a mark on what came out."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from polytape.contract import Tensor
from polytape.engines import Variable, engine, mark
from polytape.engines.places import path_of_layer

USUAL = 32  # examples of a batch whose size is not known beforehand
# Their gradients are taken as one: what they call inside them runs in a loop, or uses variables
# that they have changed.
WHOLE = (layers.RNN, layers.TimeDistributed)

# Whether a call of a layer is noted: of the layer, what it trains beside the layers that it holds,
# and the call's arguments, flat and by name.
Chooses = Callable[[layers.Layer, Sequence[Variable], Sequence[Any], Mapping[str, Any]], bool]


@dataclass(frozen=True)
class LayerCall:
    """A layer that was called once.

    function   its `call`;  variables  those that it trains
    before     whether what is marked is the input of its activation, and not its output
    marks      places of the marked tensors among all, None for an output that has no gradient
    arguments  flat, with None in the places of tensors;  structure  (args, kwargs)
    tensors    the tensors among the arguments;  states  the values of `others` before the call
    others     variables that the call may change, such as seeds
    """

    layer: keras.layers.Layer
    function: Callable[..., Any]
    variables: Sequence[Variable]
    before: bool
    marks: Sequence[int | None]
    arguments: Sequence[Any]
    structure: Any
    tensors: Sequence[Tensor]
    others: Sequence[Variable] = ()
    states: Sequence[Tensor] = ()

    @property
    def path(self) -> str:
        return path_of_layer(self.layer)

    def again(
        self, values: Sequence[Tensor], tensors: Sequence[Tensor], states: Sequence[Tensor]
    ) -> list[Any]:
        """What is marked of it for other values of its variables, flat; nothing else changes.

        tensors, states  as they came out of the recorded function
        """
        given = iter(tensors)
        flat = [next(given) if leaf is _TENSOR else leaf for leaf in self.arguments]
        args, kwargs = keras.tree.pack_sequence_as(self.structure, flat)
        pairs = [*zip(self.variables, values, strict=True), *zip(self.others, states, strict=True)]
        with Inner(pairs), instead(self.layer, "activation", _identity if self.before else None):
            return keras.tree.flatten(self.function(*args, **kwargs))


class Inner(keras.StatelessScope):
    """A stateless scope that sees the enclosing one, and notes which variables were assigned."""

    def __init__(self, mapping: Sequence[tuple[Variable, Tensor]]) -> None:
        super().__init__(collect_losses=True)
        self.state_mapping = {id(variable): value for variable, value in mapping}
        self.touched: dict[int, Variable] = {}

    def get_current_value(self, variable: Variable) -> Tensor | None:
        found = super().get_current_value(variable)
        if found is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return found

    def add_update(self, update: tuple[Variable, Tensor]) -> None:
        self.touched[id(update[0])] = update[0]
        super().add_update(update)


@dataclass
class Listening:
    """Notes the calls of chosen layers below some, from `attached` on.

    Inside of a noted call its variables have no gradient: whatever gradient they have is by a use
    that was not noted.

    values   {id of a variable: its value without a gradient};  chooses  which calls are noted
    entered  tensors that noted calls were given;  marked  how many were marked behind them
    """

    values: Mapping[int, tuple[Variable, Tensor]]
    chooses: Chooses
    calls: list[LayerCall] = field(default_factory=list)
    entered: list[Tensor] = field(default_factory=list)
    marked: int = 0
    _attached: dict[int, tuple[keras.layers.Layer, Any]] = field(default_factory=dict)
    _inside: bool = False
    _context: Any = None

    @contextmanager
    def attached(self, roots: Sequence[keras.layers.Layer]) -> Iterator[None]:
        """Listen to these layers, and to those that they call."""
        self._context = engine().context([variable for variable, _ in self.values.values()])
        try:
            for root in roots:
                self._attach(root)
            yield
        finally:
            for layer, own in self._attached.values():
                _put(layer, "call", own)
            self._attached.clear()

    def _attach(self, layer: keras.layers.Layer) -> None:
        if id(layer) in self._attached:
            return
        function = layer.call

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._called(layer, function, args, kwargs)

        self._attached[id(layer)] = layer, vars(layer).get("call")
        _put(layer, "call", call)

    def _called(
        self, layer: keras.layers.Layer, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        below = _below(layer)
        for each in below:
            self._attach(each)
        theirs = {id(v) for each in below for v in each.trainable_variables}
        own = [v for v in layer.trainable_variables if id(v) not in theirs]
        chosen = self.chooses(layer, own, args, kwargs)
        if self._inside or not (chosen or isinstance(layer, WHOLE)):
            return function(*args, **kwargs)
        self._inside = True
        try:
            # What is made within a function of its own, such as a loop's, cannot be noted.
            if not chosen or self._elsewhere(layer, args, kwargs):
                return function(*args, **kwargs)
            return self._noted(layer, function, args, kwargs)
        finally:
            self._inside = False

    def _elsewhere(self, layer: keras.layers.Layer, args: Any, kwargs: Any) -> bool:
        """Whether the call stands in a function, or is differentiated within the forward pass."""
        given = [leaf for leaf in keras.tree.flatten((args, kwargs)) if keras.ops.is_tensor(leaf)]
        known = engine().context([*given, *layer.trainable_variables])
        return bool(known != self._context)

    def _noted(
        self, layer: keras.layers.Layer, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """A call of a layer that is taken as one."""
        variables = [v for v in layer.trainable_variables if id(v) in self.values]
        others = [v for v in layer.variables if not v.trainable]
        states = [keras.ops.copy(v.value) for v in others]  # assigned in place, elsewhere
        leaves = keras.tree.flatten((args, kwargs))
        arguments = [_TENSOR if keras.ops.is_tensor(leaf) else leaf for leaf in leaves]
        self.entered += [leaf for leaf in leaves if keras.ops.is_tensor(leaf)]
        # As numbers only: what is made of them later is not to be differentiated.
        tensors = [_number(leaf) for leaf in leaves if keras.ops.is_tensor(leaf)]
        marks: list[int | None] = []
        before = has_formula(layer) and _activated(layer)

        def marking(tensor: Tensor) -> Tensor:
            if not keras.ops.is_tensor(tensor) or not _is_float(tensor):
                marks.append(None)
                return tensor
            marks.append(self.marked)
            self.marked += 1
            return mark(tensor, "layers")

        activation: Any = getattr(layer, "activation", None)

        def activated(tensor: Tensor) -> Tensor:
            return activation(marking(tensor))

        inner = Inner([self.values[id(v)] for v in variables])
        with inner as scope, instead(layer, "activation", activated if before else None):
            outputs = function(*args, **kwargs)
            if not before:
                outputs = keras.tree.map_structure(marking, outputs)
        for variable in scope.touched.values():
            variable.assign(scope.get_current_value(variable))
        for loss in scope.losses:
            layer.add_loss(loss)
        self.calls.append(
            LayerCall(
                layer,
                function,
                variables,
                before,
                marks,
                arguments,
                (args, kwargs),
                tensors,
                others,
                states,
            )
        )
        return outputs


def has_formula(layer: keras.layers.Layer) -> bool:
    """Whether the gradients of a layer follow from its inputs and those of its outputs."""
    if layer.quantization_mode is not None:
        return False
    named = [getattr(layer, name, None) for name in FORMULAS.get(type(layer), ())]
    known = {id(variable) for variable in named}
    return all(id(variable) in known for variable in layer.trainable_variables)


# Of which variables, by kind of layer. A class derived from these may do anything.
FORMULAS: dict[type, tuple[str, ...]] = {
    layers.Dense: ("kernel", "bias"),
    layers.EinsumDense: ("kernel", "bias"),
    layers.Conv1D: ("kernel", "bias"),
    layers.Conv2D: ("kernel", "bias"),
    layers.Conv3D: ("kernel", "bias"),
    layers.DepthwiseConv1D: ("kernel", "bias"),
    layers.DepthwiseConv2D: ("kernel", "bias"),
    layers.Embedding: ("embeddings",),
    layers.LayerNormalization: ("gamma", "beta"),
    layers.GroupNormalization: ("gamma", "beta"),
    layers.BatchNormalization: ("gamma", "beta"),
    layers.RMSNormalization: ("scale",),
}


def with_weights(
    layer: keras.layers.Layer,
    own: Sequence[Variable],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bool:
    """Every layer that trains variables, for the gradients of single examples.

    ValueError for one that is known to mix the examples of a batch.
    """
    del args
    _check_apart(layer, kwargs)
    return bool(own or (isinstance(layer, WHOLE) and layer.trainable_variables))


def with_many_weights(
    layer: keras.layers.Layer,
    own: Sequence[Variable],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bool:
    """Layers whose gradients take several times the memory of what comes back to their outputs."""
    trained = layer.trainable_variables
    if len(own) != len(trained) and not isinstance(layer, WHOLE):
        return False  # what it holds is asked for itself
    if not trained or type(layer) in LOOKED_UP or any("64" in str(v.dtype) for v in trained):
        return False
    size = sum(math.prod(variable.shape) for variable in trained)
    return size >= max(_MANY, _TIMES * passing(layer, [*args, *kwargs.values()]))


def where_cheaper(wide: Sequence[keras.layers.Layer], batch: int | None) -> Chooses:
    """Dense layers that are compared with less work than their gradients are formed.

    wide   those that are asked for;  batch  the examples of one, where it is known beforehand
    """
    asked = {id(layer) for layer in wide}

    def chooses(
        layer: keras.layers.Layer,
        own: Sequence[Variable],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> bool:
        if id(layer) not in asked or not with_many_weights(layer, own, args, kwargs):
            return False
        shapes = [x.shape for x in keras.tree.flatten(args) if keras.ops.is_tensor(x)]
        positions = [math.prod(batch or USUAL if n is None else n for n in s[:-1]) for s in shapes]
        return positions[0] <= FEW

    return chooses


def is_wide(layer: keras.layers.Layer) -> bool:
    """Whether it is a dense layer of so many weights that comparing gradients by them costs."""
    return type(layer) is layers.Dense and layer.built and math.prod(layer.kernel.shape) >= _WIDE


FEW = 64  # positions, examples times time steps: of so few, products are exact enough
_WIDE = 2**16
# Their gradients are sparse as it is.
LOOKED_UP = (layers.Embedding,)
_MANY = 2**14  # weights
_TIMES = 2  # as many of them as numbers come out


def passing(layer: keras.layers.Layer, arguments: Sequence[Any], batch: int = USUAL) -> int:
    """How many numbers come out of a layer, or at least go in.

    batch  what stands for axes of unknown length
    """
    given = [leaf for leaf in keras.tree.flatten(arguments) if keras.ops.is_tensor(leaf)]
    shapes = [tuple(batch if n is None else n for n in leaf.shape) for leaf in given]
    if has_formula(layer) and len(shapes) == 1:
        shapes = [layer.compute_output_shape(shapes[0])]
    return sum(math.prod(shape) for shape in shapes)


def _check_apart(layer: keras.layers.Layer, kwargs: Mapping[str, Any]) -> None:
    """Raise for a layer that is known to mix the examples of a batch."""
    training = bool(kwargs.get("training"))
    if isinstance(layer, layers.BatchNormalization) and training and layer.trainable:
        raise ValueError(
            f"Layer {path_of_layer(layer)!r} is a BatchNormalization in training mode: each "
            "example's output depends on the whole batch, so no example has a loss of its own, and "
            'per="example" cannot tell their gradients apart. Use LayerNormalization or '
            "GroupNormalization; or call it with training=False, or set its trainable = False, so "
            "that it normalises by its moving statistics."
        )
    if isinstance(layer, layers.SpectralNormalization) and training:
        raise ValueError(
            f"Layer {path_of_layer(layer)!r} is a SpectralNormalization in training mode: it "
            "changes its kernel while the batch passes, so the examples have no gradients of their "
            "own by it. Call it with training=False, or use another way to bound the kernel."
        )


def _number(tensor: Tensor) -> Tensor:
    return keras.ops.stop_gradient(tensor) if _is_float(tensor) else tensor


def _activated(layer: keras.layers.Layer) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear


def _below(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds itself. Keras has no public name for them."""
    return [each for each in layer._layers if isinstance(each, keras.layers.Layer)]


def _is_float(tensor: Tensor) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _put(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """An attribute of this one layer that goes before its class's; None takes it away.

    Past `__setattr__`, which would have Keras track it, and PyTorch register it.
    """
    if value is None:
        del vars(layer)[name]
    else:
        vars(layer)[name] = value


@contextmanager
def instead(layer: keras.layers.Layer, name: str, value: Any) -> Iterator[None]:
    """Another attribute of a layer meanwhile; None leaves it as it is."""
    own = vars(layer).get(name)
    if value is None:
        yield
        return
    _put(layer, name, value)
    try:
        yield
    finally:
        _put(layer, name, own)


def _identity(tensor: Tensor) -> Tensor:
    return tensor


class _Tensor:
    """Stands where a tensor was."""


_TENSOR = _Tensor()
