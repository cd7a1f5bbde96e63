"""Where each device has variables, their gradients and what belongs to them as a whole."""

from collections.abc import Sequence
from typing import Any

import keras

from polytape.engines.contract import Tensor, Variable


def placed(rank: int, beside: Variable | None) -> dict[str, Any]:
    del rank, beside
    return {}


def flat(array: Tensor, beside: Variable | None) -> Tensor:
    del beside
    return keras.ops.reshape(array, (array.shape[0], -1))


def unflat(flat: Tensor, shape: Sequence[int], beside: Variable | None) -> Tensor:
    del beside
    return keras.ops.reshape(flat, (flat.shape[0], *shape))


def scatter_refusal() -> str | None:
    return f"it is for JAX, and the backend is {keras.backend.backend()}"


def reduce_scatter(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(gradients)  # nobody asks


def gathered(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return list(gradients)
