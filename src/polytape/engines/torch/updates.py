"""What a training step changes, and how it is run."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import torch
import torch._functorch.config as functorch

from polytape.contract.ops import on_arrays
from polytape.engines.absent import present
from polytape.engines.contract import Tensor, Variable

_ARRAYS, _TENSORS = (np.ndarray, np.generic), (torch.Tensor,)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def compiled(function: Callable[..., Any], arrays: bool = False) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        with torch.no_grad():
            if arrays:
                return evaluated(function, *given)
            return function(*_mapped(given, _ARRAYS, keras.ops.convert_to_tensor))

    return call


def evaluated(function: Callable[..., Any], *given: Any) -> Any:
    # Not inside another compiler, which is to see tensors, and not where they are elsewhere.
    try:
        arrays = None if torch.compiler.is_compiling() else _mapped(given, _TENSORS, _array)
    except _ElsewhereError:
        arrays = None
    if arrays is None:
        return function(*_mapped(given, _ARRAYS, keras.ops.convert_to_tensor))
    with on_arrays():
        found = function(*arrays)
    return _mapped(found, _ARRAYS, _tensor)


class _ElsewhereError(Exception):
    """A tensor without values in the memory of the CPU, or not a plain one."""


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array, which shares its memory."""
    there = tensor.is_cpu and tensor.dtype is not torch.bfloat16  # which NumPy has not
    if not there or type(tensor) not in _PLAIN or _is_wrapped(tensor):
        raise _ElsewhereError
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def _tensor(array: np.ndarray | np.generic) -> Tensor:
    """An array as a tensor, with memory of its own."""
    return torch.from_numpy(np.array(array))


def _mapped(nest: Any, kinds: tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    if isinstance(nest, kinds):
        return change(nest)
    if not isinstance(nest, (dict, tuple, list)):
        return nest
    if isinstance(nest, dict):
        return {key: _mapped(value, kinds, change) for key, value in nest.items()}
    items = [_mapped(value, kinds, change) for value in nest]
    if type(nest) is list:
        return items
    return tuple(items) if type(nest) is tuple else type(nest)(*items)  # a named one


def survey(function: Callable[[], Any]) -> None:
    with torch.random.fork_rng():
        function()


def compiled_step(step: Callable[..., Any], variables: Sequence[Variable]) -> Callable[..., Any]:
    del variables  # they are updated in place
    return step


def choose(first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    return one() if bool(first) else other()


def either(first: Tensor, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    return choose(first, one, other)


def without_side_effects(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    kept = [variable.value.clone() for variable in changing]
    with torch.random.fork_rng(), torch.no_grad():  # Dropout draws from the global generator
        found = function()
    for variable, value in zip(changing, kept, strict=True):
        variable.assign(value)
    return found


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    if bool(accept):
        with torch.no_grad():
            for variable, value in zip(variables, values, strict=True):
                variable.value.copy_(value)


def restore_if_nonfinite(variable: Variable, value: Tensor) -> None:
    # Not written where there is nothing to mend: it may be a weight of a frozen layer, which the
    # backward pass must find untouched.
    assign([variable], [value], ~torch.isfinite(variable.value).all())


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
    exact: bool = False,
) -> None:
    del exact  # it always is
    if not optimizer.built:
        optimizer.build(variables)
    if bool(accept):
        with torch.no_grad():
            optimizer.apply(*present(gradients, variables))


def prepare(model: Any) -> None:
    if model.jit_compile:
        # A graph that is differentiated once per objective must keep its buffers.
        functorch.donated_buffer = False


def snapshot(model: Any) -> None:
    del model  # variables are updated in place and never taken away


def restore_snapshot(kept: None) -> None:
    del kept


def readable(variable: Variable) -> bool:
    del variable  # it is updated in place and never taken away
    return True


def train_step(
    model: Any, step: Callable[[Any], Any], data: Any, same: Sequence[Variable] | None = None
) -> Any:
    del model, same
    return step(data)
