"""The precision of the mathematics of methods, whatever that of the network is."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import keras

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, in which Keras makes float32 tensors where no type is named.

    Gramians and weights are float32. `ops.zeros(shape)` and the like follow
    `keras.config.floatx()`, which is that of the network: under "float64" two types would meet, and
    under "bfloat16" three digits would be left.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        usual = keras.config.floatx()
        if usual == "float32":
            return function(*args, **kwargs)
        keras.config.set_floatx("float32")
        try:
            return function(*args, **kwargs)
        finally:
            keras.config.set_floatx(usual)

    return run
