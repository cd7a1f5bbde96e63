"""The operations of a function that JAX has traced, and their values by running them once more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.core import jaxpr_as_fun

from polytape.engines.contract import Forward, Scalars, Tensor, Variable
from polytape.engines.grouped import flattened
from polytape.engines.jax.linearized import Linearized
from polytape.engines.jax.scope import Scope
from polytape.engines.operations import LeftFrameworkError, Operation, Size, Trace, name_of
from polytape.engines.places import (
    Place,
    line_of_error,
    living,
    of_library,
    of_losses,
    own_line,
    paths_of,
)

_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_AS_ONE = (
    "clip",
    "softmax",
    "log_softmax",
    "gelu",
    "relu6",
    "hard_sigmoid",
    "hard_tanh",
    "silu",
    "elu",
    "selu",
    "softplus",
    "searchsorted",
    "digitize",
    "floor_divide",
)  # calls that people know by their name

_SPREADS = ("broadcast_in_dim", "reshape", "reduce_sum")
_STEPS = ("argmax", "floor", "ceil", "round", "sign", "a comparison", "cast", "where")


class _Step(NamedTuple):
    """An equation of the jaxpr, over numbered tensors; an input that is no number is a literal."""

    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


class _Literal(NamedTuple):
    value: Any


class _Flat:
    """A jaxpr without calls."""

    def __init__(self, closed: Any) -> None:
        self.steps: list[_Step] = []
        self.operations: list[Operation] = []
        self.dtypes: dict[int, str] = {}
        self.constants: dict[int, Any] = {}
        self.inputs = [self._new(variable) for variable in closed.jaxpr.invars]
        consts = [self._new(variable) for variable in closed.jaxpr.constvars]
        self.constants.update(zip(consts, closed.consts, strict=True))
        self.outputs = self._run(closed.jaxpr, [*consts, *self.inputs], Place())
        self._name_softmax()

    def _new(self, variable: Any) -> int:
        number = len(self.dtypes)
        self.dtypes[number] = str(getattr(variable.aval, "dtype", ""))
        return number

    def _run(
        self, jaxpr: Any, given: Sequence[Any], within: Place, drawn: bool = False
    ) -> list[Any]:
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], given, strict=True))

        def read(atom: Any) -> Any:
            return _Literal(atom.val) if "val" in dir(atom) else known[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            place, random = _place(equation, within), drawn or _draws(equation)
            known.update(
                zip(equation.outvars, self._through(equation, inputs, place, random), strict=True)
            )
        return [read(atom) for atom in jaxpr.outvars]

    def _through(
        self, equation: Any, inputs: list[Any], place: Place, drawn: bool
    ) -> Sequence[Any]:
        name = equation.primitive.name
        inner = equation.params.get("jaxpr")
        if name in _CALLS and equation.params.get("name") not in _AS_ONE:
            if "consts" in dir(inner):  # closed
                consts = [self._constant(value) for value in inner.consts]
                return self._run(inner.jaxpr, [*consts, *inputs], place, drawn)
            return self._run(inner, inputs, place, drawn)
        outputs = tuple(self._new(variable) for variable in equation.outvars)
        self.steps.append(_Step(equation, tuple(inputs), outputs))
        numbers = tuple(each for each in inputs if isinstance(each, int))
        name = _named(equation)
        if drawn and name in _STEPS:
            name = "sampling"
        self.operations.append(Operation(name, numbers, outputs, place))
        return outputs

    def _name_softmax(self) -> None:
        """All parts of it: JAX writes it out as exponentials, divided by their sum."""
        maker = {made: op for op in self.operations for made in op.outputs}
        parts: set[int] = set()
        for operation in self.operations:
            if operation.name == "divide" and len(operation.inputs) == 2:
                above, below = (maker.get(tensor) for tensor in operation.inputs)
                between = []
                while below and below.inputs and below.name in _SPREADS:
                    between.append(below)
                    below = maker.get(below.inputs[0])
                if above is not None and above is below and above.name == "exp":
                    shift = maker.get(above.inputs[0])
                    found = [operation, *between, above, *_largest(shift, maker)]
                    parts |= {id(each) for each in found}
        self.operations = [
            replace(operation, name="softmax") if id(operation) in parts else operation
            for operation in self.operations
        ]

    def _constant(self, value: Any) -> int:
        number = len(self.dtypes)
        self.dtypes[number] = str(getattr(value, "dtype", ""))
        self.constants[number] = value
        return number

    def evaluate(
        self, values: Sequence[Tensor], added: Mapping[int, Tensor] | None = None
    ) -> dict[int, Any]:
        """Every tensor by its number.

        added  to some of them, so that there is something to differentiate by
        """
        known = dict(self.constants)
        known.update(zip(self.inputs, values, strict=True))
        added = added or {}
        for number in [*known]:
            if number in added:
                known[number] = known[number] + added[number]
        for equation, inputs, outputs in self.steps:
            given = [known[each] if isinstance(each, int) else each.value for each in inputs]
            bound = equation.primitive.get_bind_params(equation.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            found = equation.primitive.bind(*functions, *given, **params)
            found = found if equation.primitive.multiple_results else [found]
            for number, value in zip(outputs, found, strict=True):
                known[number] = value + added[number] if number in added else value
        return known


def _largest(shift: Operation | None, maker: Mapping[int, Operation]) -> list[Operation]:
    """The operations that subtract the largest number, if one does."""
    if shift is None or shift.name != "sub" or len(shift.inputs) != 2:
        return []
    found, step = [shift], maker.get(shift.inputs[1])
    while step and step.name in ("stop_gradient", "broadcast_in_dim", "reshape", "maximum"):
        found.append(step)
        step = maker.get(step.inputs[-1])
    ends = step is not None and step.name == "reduce_max"
    return [*found, *filter(None, [step])] if ends else []


def _draws(equation: Any) -> bool:
    """Whether an equation belongs to what JAX draws random numbers by."""
    traceback = equation.source_info.traceback
    frames = traceback.frames if traceback else []
    return any("/jax/_src/random" in frame.file_name for frame in frames)


def _named(equation: Any) -> str:
    name = equation.primitive.name
    if name in _CALLS:
        return name_of(str(equation.params["name"]))
    if name in _CUSTOM:
        inner = equation.params.get("call_jaxpr", equation.params.get("fun_jaxpr"))
        inner = getattr(inner, "jaxpr", inner)
        info = getattr(inner, "debug_info", None)
        name, file = getattr(info, "func_name", None), getattr(info, "func_filename", None)
        if file is not None and not of_library(file):
            return "a custom function"
        if name is None and len(inner.eqns) == 1:  # older versions
            name = inner.eqns[0].params.get("name")
        return name_of(str(name or "a custom function"))
    return name_of(name)


def _layer(scope: str, depth: int) -> str:
    """The scope without what JAX's transformations, and users, add to it.

    depth  how many calls of layers there are
    """
    parts = [part for part in scope.split("/") if part and "(" not in part]
    if len(parts) > depth:  # a scope of the user's own
        names = {layer.name for layer in living(keras.layers.Layer)}
        parts = [part for part in parts if part in names]
    parts = [part for part in parts if not part.startswith("polytape_")]  # layers of our own
    return "/".join(parts)


def _place(equation: Any, within: Place) -> Place:
    """Of an equation of a function that is called in some place."""
    traceback = equation.source_info.traceback
    frames = traceback.frames if traceback else []
    lines = [(frame.file_name, frame.line_num) for frame in frames]
    depth = sum(frame.function_name == "Layer.__call__" for frame in frames)
    scopes = [within.layer]
    if not any(of_losses(file) for file, _ in lines):  # whose names are scopes, too
        scopes.append(_layer(str(equation.source_info.name_stack), depth))
    return Place("/".join(filter(None, scopes)), own_line(lines) or within.line)


class _Numbers:
    """Each question is one compiled function."""

    def __init__(self, flat: _Flat, values: Sequence[Tensor]) -> None:
        self._flat, self._values = flat, list(values)

    def value(self, tensor: int) -> Any:
        run = jax.jit(lambda values: self._flat.evaluate(values)[tensor])
        return np.asarray(run(self._values).astype("float32"))

    def sizes(self, tensors: Sequence[int]) -> dict[int, Size]:
        def run(values: Sequence[Tensor]) -> Any:
            known = self._flat.evaluate(values)
            return [_size(known[tensor]) for tensor in tensors]

        return _sizes(tensors, jax.jit(run)(self._values))

    def cotangents(self, scalar: int, tensors: Sequence[int]) -> dict[int, Size]:
        loss = self._flat.outputs[scalar]
        if not isinstance(loss, int):
            return {}

        def run(values: Sequence[Tensor]) -> Any:
            known = self._flat.evaluate(values)
            zeros = {tensor: jnp.zeros_like(known[tensor]) for tensor in tensors}

            def total(added: dict[int, Tensor]) -> Tensor:
                return self._flat.evaluate(values, added)[loss]

            gradients = jax.grad(total)(zeros)
            return [_size(gradients[tensor]) for tensor in tensors]

        return _sizes(tensors, jax.jit(run)(self._values))


def _size(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    entries = jnp.abs(value).astype("float32")
    there = jnp.isfinite(entries)
    largest = jnp.max(jnp.where(there, entries, 0.0), initial=0.0)
    return largest, jnp.all(there), jnp.any(jnp.isnan(entries))


def _sizes(tensors: Sequence[int], found: Any) -> dict[int, Size]:
    pairs = zip(tensors, found, strict=True)
    return {tensor: Size(float(size), bool(ok), bool(nan)) for tensor, (size, ok, nan) in pairs}


def trace(
    forward: Forward, variables: Callable[[], Sequence[Variable]]
) -> tuple[Linearized, Trace]:
    known = variables()
    values = [variable.value for variable in known]
    names: list[Any] = []

    def pure(values: list[Tensor]) -> tuple[list[Tensor], Any]:
        with Scope(list(zip(known, values, strict=True))):
            scalars, outputs = forward()
        flat, groups = flattened(scalars)
        names[:] = groups.items()
        return flat, outputs

    try:
        closed, shapes = jax.make_jaxpr(pure, return_shape=True)(values)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise LeftFrameworkError(line_of_error(error)) from error
    flat = _Flat(closed)
    structure = jax.tree.structure(shapes)
    run = jax.jit(jaxpr_as_fun(closed))

    def function(values: list[Tensor]) -> tuple[Scalars, Any]:
        scalars, outputs = jax.tree.unflatten(structure, run(*values))
        if names:
            scalars = {name: [scalars[place] for place in places] for name, places in names}
        return scalars, outputs

    try:
        recording = Linearized(function, values, known)
    except ValueError as error:  # a callback has no derivative
        host = next((op for op in flat.operations if op.name == "a host function"), None)
        if host is None:
            raise
        raise LeftFrameworkError(host.place.line) from error
    held = paths_of([*flat.constants.values()], trainable=True)
    others = {number: path for number, path in zip(flat.constants, held, strict=True) if path}
    outputs = flat.outputs[: len(recording.scalars)]
    scalars = [each if isinstance(each, int) else -1 for each in outputs]
    numbers = _Numbers(flat, values)
    return recording, Trace(flat.operations, flat.dtypes, flat.inputs, scalars, others, numbers)
