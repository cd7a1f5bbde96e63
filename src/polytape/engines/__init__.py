"""The engine of the backend that Keras has chosen, and of no other."""

from functools import cache
from importlib import import_module
from typing import cast

import keras

from polytape.engines.contract import Engine, Measure, Recording, Rows, Tape
from polytape.engines.marking import mark, stand_in, unheard
from polytape.engines.native import check_native, framework_of

__all__ = [
    "Engine",
    "Measure",
    "Recording",
    "Rows",
    "Tape",
    "check_native",
    "engine",
    "framework_of",
    "mark",
    "stand_in",
    "unheard",
]


@cache
def engine() -> Engine:
    """The module `engines/<backend>`."""
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax", "torch"):
        raise RuntimeError(
            f"polytape differentiates on TensorFlow, JAX and PyTorch. Received the Keras backend "
            f"{backend!r}. Set KERAS_BACKEND=tensorflow, jax or torch before importing Keras; "
            "methods and `pt.weigh` work on every backend."
        )
    return cast(Engine, import_module(f"polytape.engines.{backend}"))
