"""Compile a function the way the current Keras backend does it."""

from collections.abc import Callable
from typing import Any

import keras

COMPILES = keras.backend.backend() in ("jax", "tensorflow")


def compiled(fn: Callable[..., Any], *, xla: bool = True) -> Callable[..., Any]:
    """`jax.jit(fn)`, `tf.function(fn)`, or `fn` itself on eager backends.

    xla  False leaves XLA out on TensorFlow; the other backends do not care

    Without AutoGraph, as Keras and the engine do it: it takes longer than the tracing itself.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(fn)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(fn, jit_compile=xla, autograph=False)
    return fn
