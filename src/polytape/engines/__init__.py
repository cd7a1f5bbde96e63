"""The engine of the backend that Keras has chosen, and of no other."""

from functools import cache
from importlib import import_module
from typing import Any, cast

import keras

from polytape.engines.contract import (
    Asked,
    Engine,
    Forward,
    GroupName,
    InLoop,
    Measure,
    Recording,
    Rows,
    Scalars,
    Tape,
    Variable,
    Way,
)
from polytape.engines.grouped import flattened
from polytape.engines.marking import mark, stand_in, unheard
from polytape.engines.native import check_native, framework_of

__all__ = [
    "Asked",
    "Engine",
    "Forward",
    "GroupName",
    "InLoop",
    "Measure",
    "Recording",
    "Rows",
    "Scalars",
    "Tape",
    "Variable",
    "Way",
    "check_distribution",
    "check_native",
    "engine",
    "flattened",
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


def check_distribution(asked_by: str, model: Any = None, fits: bool = False) -> None:
    """Raise `RuntimeError` where a step could not be right on the devices that it would run on.

    asked_by  begins the error: "compile()"
    model     a model, network or module that may be spread itself, variables, or None
    fits      whether Keras's own loop is to run the step
    """
    found = engine().refusal(model, fits)
    if found is not None:
        raise RuntimeError(f"{asked_by}: {found}")
