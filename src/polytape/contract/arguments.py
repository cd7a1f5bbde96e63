"""Arrays that a caller hands over, as tensors; or errors that name them."""

from typing import Any

import numpy as np

from polytape.contract import ops
from polytape.contract.checks import received
from polytape.contract.evidence import Tensor


def numbers(name: str, values: Any, shape: tuple[int, ...] | None, *, finite: bool) -> Tensor:
    """An argument as a float32 tensor; an error that names it unless it holds real numbers.

    shape   that it must have; None takes any
    finite  whether every number must be finite, where they are known
    """
    tensor = ops.convert_to_tensor(real(name, values, shape))
    if finite and (found := known(tensor)) is not None and not np.isfinite(found).all():
        raise ValueError(
            f"`{name}` has entries that are not finite. Leave that objective out with `active=`: "
            "they would stay in the state for good."
        )
    return tensor


def real(name: str, values: Any, shape: tuple[int, ...] | None = None) -> Tensor:
    """The same, of any size of numbers, where a tensor stays one and all else becomes an array."""
    if ops.is_tensor(values):
        if "complex" in str(values.dtype):
            raise TypeError(f"`{name}` holds real numbers. Received a tensor of {values.dtype}.")
        found = values if _is_float32(values) else ops.cast(values, "float32")
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise ValueError(
                f"`{name}` is ragged: its rows differ in length. {received(values)}"
            ) from error
        if array.dtype.kind not in "fiu" and not str(array.dtype).startswith(("bfloat", "float")):
            raise TypeError(f"`{name}` holds real numbers. {received(values)}")
        found = array.astype("float32", copy=False)
    if shape is not None and tuple(found.shape) != shape:
        raise ValueError(
            f"Expected `{name}` of shape {shape}. Received shape: {tuple(found.shape)}."
        )
    return found


def _is_float32(tensor: Tensor) -> bool:
    return str(tensor.dtype).rpartition(".")[2] == "float32"  # PyTorch's are called torch.float32


def flags(name: str, values: Any, shape: tuple[int, ...]) -> Tensor:
    """An argument as a bool tensor; an error that names it unless it holds booleans."""
    if tuple(np.shape(values)) != shape:
        raise ValueError(
            f"Expected `{name}` of shape {shape}, one entry per objective. "
            f"Received shape: {tuple(np.shape(values))}."
        )
    tensor = values if ops.is_tensor(values) else np.asarray(values)
    if "bool" not in str(tensor.dtype):
        raise TypeError(f"`{name}` holds booleans. {received(values)}")
    return ops.convert_to_tensor(tensor)


def known(tensor: Tensor) -> np.ndarray | None:
    """The values of a tensor; None while it is traced."""
    for way in (np.asarray, ops.convert_to_numpy):  # the first is quick, the second comes far
        try:
            return np.asarray(way(tensor), "float64")
        except Exception:  # each framework has an error of its own for it
            continue
    return None
