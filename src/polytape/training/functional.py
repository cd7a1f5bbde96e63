"""What is known of a model whose layers form a graph, and of one that steps as Keras does."""

import functools

import keras

# What a class of the user's may override of a step.
_HOOKS = ("train_step", "compute_loss", "compute_metrics", "metrics", "call")


@functools.cache
def plain_functional() -> type[keras.Model]:
    """Keras's class of functional models, which has no public name.

    It is what `keras.Model` makes of two arguments, inputs and outputs; nothing is built of them.
    """
    return type(keras.Model.__new__(keras.Model, None, None))


def steps_as_keras(model: keras.Model) -> bool:
    """Whether no class of the user's says what is done in a step of a `polytape.Model`."""
    return not any(model.overriding(hook) for hook in _HOOKS)
