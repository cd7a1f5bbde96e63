"""A derivative within losses, as people take it by hand on each framework."""

from collections.abc import Callable
from typing import Any

import keras


def slope(function: Callable[[Any], Any], x: Any, at: Callable[[Any], Any] | None = None) -> Any:
    """The gradient of the sum of `function(at(x))` by `at(x)`, or by `x`; itself differentiable."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            where = at(x) if at else x
            tape.watch(where)
            value = keras.ops.sum(function(where))
        return tape.gradient(value, where)
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda z: keras.ops.sum(function(z)))(at(x) if at else x)
    import torch

    where = at(x) if at else x.detach().requires_grad_()
    return torch.autograd.grad(function(where).sum(), where, create_graph=True)[0]
