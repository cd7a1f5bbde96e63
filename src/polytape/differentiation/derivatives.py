"""Derivatives by tensors that losses are made of: gradient penalties, physics-informed networks."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor, received
from polytape.engines import engine


def derivative(function: Callable[[Any], Tensor], x: Any) -> Any:
    """The derivative of the sum of `function(x)` by `x`, itself differentiable, on any backend.

    The sum makes it the derivative of every sample at once: where entry i of the result depends on
    row i of `x` only, row i of the derivative belongs to entry i alone. BatchNormalization in
    training mode mixes the samples of a batch, so its derivatives are of the sum in earnest.

    Derivatives of derivatives, `pt.derivative(lambda x: pt.derivative(function, x), x)`, may be
    taken as often as wanted, and the losses made of them differentiated by the variables of the
    networks: in a `call`, in `pt.gradients`, in `fit` and in `evaluate`. A network called inside
    `function` updates its statistics and seeds once, as in any call; whether terms that it adds
    with `add_loss` count there depends on the backend.

    Args:
        function: called once, with `x`; returns one floating-point tensor of any shape. Everything
            that is to be differentiated must happen inside it
        x: a floating-point tensor of any shape, or a dict, list or tuple of such tensors

    Returns:
        A tensor in the shape and type of `x`, or a dict, list or tuple of them.

    Raises:
        TypeError: If `x` is symbolic or has no floating-point type, or if `function` does not
            return one floating-point tensor.
        ValueError: If that does not depend on `x`.

    Example:
        >>> import keras, polytape as pt
        >>> x = keras.ops.convert_to_tensor([1.0, 2.0, 3.0])
        >>> slope = pt.derivative(lambda x: x**3, x)
        >>> [float(value) for value in slope]
        [3.0, 12.0, 27.0]
    """
    if not callable(function):
        raise TypeError(
            "pt.derivative takes a function and the tensor to differentiate by, as in "
            f"pt.derivative(lambda x: network(x), x). {received(function)}"
        )
    named = keras.tree.flatten_with_path(x)
    if not named:
        raise ValueError(f"pt.derivative got nothing to differentiate by. {received(x)}")
    names = ["x" + "".join(f"[{key!r}]" for key in path) for path, _ in named]
    leaves = [_leaf(name, leaf) for name, (_, leaf) in zip(names, named, strict=True)]

    def total(leaves: list[Tensor]) -> Tensor:
        value = function(keras.tree.pack_sequence_as(x, leaves))
        _check_value(value)
        return ops.sum(value)

    found = engine().derivative(total, leaves)
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            raise ValueError(
                f"The function of pt.derivative does not depend on {name}: no differentiable path "
                "leads from its argument to what it returns. Likely causes: it reads a tensor "
                "computed outside instead of its argument; the path goes through stop_gradient, "
                "argmax, a comparison, a cast to integers or NumPy; or the derivative is zero "
                "everywhere, as the second one of a linear function is, or of a network of ReLUs "
                "(use tanh or swish)."
            )
    return keras.tree.pack_sequence_as(x, found)


def _leaf(name: str, leaf: Any) -> Tensor:
    if isinstance(leaf, keras.KerasTensor):
        raise TypeError(
            f"pt.derivative needs tensors with values, and {name} is symbolic: {leaf!r}. Take the "
            "derivative in the `call` of a layer or model of your own, or in an objective function."
        )
    if leaf is None or isinstance(leaf, str):
        raise TypeError(
            f"pt.derivative differentiates by tensors, and {name} is none. {received(leaf)}"
        )
    tensor = ops.convert_to_tensor(leaf)
    if not _is_float(tensor):
        raise TypeError(
            "pt.derivative differentiates by floating-point tensors. Received: "
            f"{name} of type {_type(tensor)}. Cast it with "
            'keras.ops.cast(x, "float32") if it is a quantity, and leave it out if it is a label '
            "or an index."
        )
    return tensor


def _check_value(value: Any) -> None:
    if not ops.is_tensor(value) or not _is_float(value):
        tensor = ops.is_tensor(value)
        kind = f"a tensor of type {_type(value)}" if tensor else f"a {type(value).__name__}"
        raise TypeError(
            "The function of pt.derivative must return one floating-point tensor. Received: "
            f"{kind}. Of several outputs pick the one to differentiate, as in "
            'lambda x: network(x)["u"]; NumPy arrays and integers have no derivative.'
        )


def _is_float(tensor: Tensor) -> bool:
    return "float" in _type(tensor)


def _type(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))
