"""Replicas: none, since `keras.distribution` spreads arrays, and a step sees them whole."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from polytape.engines.contract import Tensor


def replica_count() -> int:
    return 1


def replica_index() -> Tensor:
    return jnp.zeros((), "int32")


def all_reduce(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list(tensors)


def refusal(model: Any) -> str | None:
    del model
    return None
