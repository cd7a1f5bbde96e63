"""Tensors marked in a forward pass, by which a recording can be differentiated as by variables."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import keras

from polytape.engines.contract import Measure, Tensor

Marker = Callable[[Tensor], Tensor]
_listening: ContextVar[tuple[Measure, Marker] | None] = ContextVar("listening", default=None)


@contextlib.contextmanager
def listening(measure: Measure, marker: Marker) -> Iterator[None]:
    """Hand every tensor that is marked as `measure` to the `marker`, which returns its stand-in."""
    token = _listening.set((measure, marker))
    try:
        yield
    finally:
        _listening.reset(token)


def mark(tensor: Tensor, measure: Measure) -> Tensor:
    """The tensor, or its stand-in if a recording listens for this measure.

    Tensors without a gradient (integers, strings, None) are returned as they are.
    """
    current = _listening.get()
    if current is None or current[0] != measure or not _differentiable(tensor):
        return tensor
    return current[1](tensor)


def _differentiable(tensor: Tensor) -> bool:
    if isinstance(tensor, keras.KerasTensor) or not keras.ops.is_tensor(tensor):
        return False
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
