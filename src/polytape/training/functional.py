"""Keras's class of functional models."""

import functools

import keras


@functools.cache
def plain_functional() -> type[keras.Model]:
    """Keras's class of functional models, which has no public name.

    It is what `keras.Model` makes of two arguments, inputs and outputs; nothing is built of them.
    """
    return type(keras.Model.__new__(keras.Model, None, None))
