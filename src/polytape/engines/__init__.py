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
    Measure,
    Recording,
    Rows,
    Scalars,
    Tape,
)
from polytape.engines.grouped import flattened
from polytape.engines.marking import mark, stand_in, unheard
from polytape.engines.native import check_native, framework_of

__all__ = [
    "Asked",
    "Engine",
    "Forward",
    "GroupName",
    "Measure",
    "Recording",
    "Rows",
    "Scalars",
    "Tape",
    "check_native",
    "check_replicas",
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


def check_replicas(asked_by: str, model: Any = None) -> None:
    """Raise `RuntimeError` where a step would run as several that share a model.

    asked_by  begins the error: "compile()"
    model     a model, network or module that may be spread itself, or None
    """
    found = engine().replicas(model)
    if found is not None:
        raise RuntimeError(
            f"{asked_by}: {found}. polytape does not add gradients up over replicas yet: each "
            "would combine those of its own part of the batch, and they would part ways. What "
            "works today: several devices through keras.distribution on JAX (DataParallel or "
            "ModelParallel); on TensorFlow a strategy with one replica, as "
            "tf.distribute.OneDeviceStrategy, or none; on PyTorch one process, and the network "
            "itself instead of its wrapper, `wrapper.module`."
        )
