"""Tensors marked in a forward pass, by which a recording can be differentiated as by variables."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

import keras

from polytape.engines.contract import Marked, Measure, Tensor

Marker = Callable[[Tensor], Tensor]
_LOSS = "loss"
_depth: ContextVar[int] = ContextVar("depth", default=0)
_listening: ContextVar[Mapping[str, Marker]] = ContextVar("listening", default={})  # noqa: B039


@contextlib.contextmanager
def listening(measure: Marked, marker: Marker, of_losses: Marker | None = None) -> Iterator[None]:
    """Hand every tensor that is marked as `measure` to the `marker`, which returns its stand-in.

    of_losses  the same for losses; None: nobody asks for them
    """
    markers: dict[str, Marker] = {measure: marker}
    if of_losses is not None:
        markers[_LOSS] = of_losses
    token = _listening.set(markers)
    try:
        yield
    finally:
        _listening.reset(token)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Hand over nothing meanwhile."""
    token = _listening.set({})
    try:
        yield
    finally:
        _listening.reset(token)


@contextlib.contextmanager
def differentiated_within() -> Iterator[None]:
    """Meanwhile a function runs to be differentiated, whose derivative is differentiated again."""
    token = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(token)


def depth() -> int:
    """Of how many such functions each within another one runs."""
    return _depth.get()


def mark(tensor: Tensor, measure: Marked) -> Tensor:
    """The tensor, or its stand-in if a recording listens for this measure.

    Tensors without a gradient (integers, strings, None) are returned as they are.
    """
    marker = _listening.get().get(measure)
    return tensor if marker is None or not _differentiable(tensor) else marker(tensor)


def measured_at(marked: Marked) -> Measure:
    """Where gradients are measured if such tensors are marked."""
    return "parameters" if marked == "layers" else marked


def stand_in(loss: Tensor) -> Tensor:
    """The number that a loss comes to, which no variable has touched, if a recording asks for it.

    What is computed from it can be differentiated by it, and by the variables only in so far as it
    depends on them by other ways. Without such a recording the loss itself.
    """
    marker = _listening.get().get(_LOSS)
    return loss if marker is None else marker(keras.ops.stop_gradient(loss))


def _differentiable(tensor: Tensor) -> bool:
    if isinstance(tensor, keras.KerasTensor) or not keras.ops.is_tensor(tensor):
        return False
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
