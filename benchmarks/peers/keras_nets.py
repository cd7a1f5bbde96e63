"""The nets in Keras, for polytape's `fit` on each backend. Their twins are in `torch_nets.py`."""

from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.peers.nets import FIELDS, IDS, LENGTH, TOKENS, Array, Net, Role, first_weights


class Stack:
    """Makes layers and keeps them in the order in which they are made, which is that of weights."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, layer: Any, *args: Any) -> Any:
        self.made.append(layer)
        return layer(*args)


def build(cls: type, net: Net) -> tuple[Any, list[Any]]:
    """A model of the class, and its trainable variables in the order of the layers."""
    stack = Stack()
    trunk = {
        "tiny-mlp": _mlp,
        "wide-mlp": _mlp,
        "lenet": _lenet,
        "resnet": _resnet,
        "transformer": _transformer,
        "recommender": _recommender,
        "per-example": _convolutions,
    }[net.kind]
    inputs, hidden = trunk(stack, net)
    heads = {}
    for name in net.heads:
        last = hidden
        if net.kind == "lenet":
            last = stack(layers.Dense(50, activation="relu"), last)
        heads[name] = stack(layers.Dense(net.units, name=name), last)
    variables = [v for layer in stack.made for v in layer.trainable_variables]
    return cls(inputs, heads), variables


def losses(net: Net) -> dict[str, Any]:
    made = {
        "squares": keras.losses.MeanSquaredError,
        "classes": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "clicks": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    }[net.loss]
    return {name: made() for name in net.heads}


def load_first(variables: list[Any]) -> None:
    """Give them the weights that all begin with."""
    described = [(_role(v), _flat_shape(v)) for v in variables]
    for variable, value in zip(variables, first_weights(described), strict=True):
        variable.assign(value.reshape(variable.shape))


def read(variables: list[Any]) -> list[Array]:
    return [
        np.array(keras.ops.convert_to_numpy(v.value)).reshape(_flat_shape(v)) for v in variables
    ]


def _role(variable: Any) -> Role:
    return variable.name


def _flat_shape(variable: Any) -> tuple[int, ...]:
    """That of a matrix or vector where attention has an axis for its heads."""
    shape = tuple(variable.shape)
    if variable.name == "bias":
        return (int(np.prod(shape)),)
    if len(shape) == 3:
        inner = shape[0] if "attention_output" not in variable.path else shape[0] * shape[1]
        return (inner, int(np.prod(shape)) // inner)
    return shape


def _picture(height: int, width: int, channels: int) -> Any:
    if keras.config.image_data_format() == "channels_first":
        return keras.Input((channels, height, width))
    return keras.Input((height, width, channels))


def _mlp(stack: Stack, net: Net) -> tuple[Any, Any]:
    inputs = hidden = keras.Input((net.widths[0],))
    for width in net.widths[1:]:
        hidden = stack(layers.Dense(width, activation="relu"), hidden)
    return inputs, hidden


def _lenet(stack: Stack, net: Net) -> tuple[Any, Any]:
    del net
    inputs = hidden = _picture(36, 36, 1)
    for filters in (10, 20):
        hidden = stack(layers.Conv2D(filters, 5), hidden)
        hidden = layers.ReLU()(layers.MaxPooling2D(2)(hidden))
    return inputs, stack(layers.Dense(50, activation="relu"), layers.Flatten()(hidden))


def _resnet(stack: Stack, net: Net) -> tuple[Any, Any]:
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1

    def convolution(x: Any, width: int, size: int, stride: int) -> Any:
        x = layers.ZeroPadding2D(size // 2)(x) if size > 1 else x
        x = stack(layers.Conv2D(width, size, strides=stride, use_bias=False), x)
        return stack(layers.BatchNormalization(axis, epsilon=1e-5), x)

    inputs = _picture(32, 32, 3)
    hidden = layers.ReLU()(convolution(inputs, net.widths[0], 3, 1))
    for stage, width in enumerate(net.widths):
        for stride in (2 if stage else 1, 1):
            before = hidden
            hidden = layers.ReLU()(convolution(hidden, width, 3, stride))
            hidden = convolution(hidden, width, 3, 1)
            if stride == 2:
                before = convolution(before, width, 1, 2)
            hidden = layers.ReLU()(layers.Add()([hidden, before]))
    return inputs, layers.GlobalAveragePooling2D()(hidden)


def _transformer(stack: Stack, net: Net) -> tuple[Any, Any]:
    del net
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = stack(layers.Embedding(TOKENS, 64), inputs)
    for _ in range(2):
        normed = stack(layers.LayerNormalization(epsilon=1e-5), hidden)
        attended = stack(layers.MultiHeadAttention(4, 16), normed, normed)
        hidden = layers.Add()([hidden, attended])
        normed = stack(layers.LayerNormalization(epsilon=1e-5), hidden)
        wide = stack(layers.Dense(256, activation="relu"), normed)
        hidden = layers.Add()([hidden, stack(layers.Dense(64), wide)])
    return inputs, layers.GlobalAveragePooling1D()(hidden)


def _recommender(stack: Stack, net: Net) -> tuple[Any, Any]:
    inputs = keras.Input((FIELDS,), dtype="int32")
    hidden = layers.Flatten()(stack(layers.Embedding(IDS, 32), inputs))
    for width in net.widths:
        hidden = stack(layers.Dense(width, activation="relu"), hidden)
    return inputs, hidden


def _convolutions(stack: Stack, net: Net) -> tuple[Any, Any]:
    del net
    inputs = _picture(28, 28, 1)
    hidden = stack(layers.Conv2D(32, 3, activation="elu"), inputs)
    hidden = layers.MaxPooling2D(2)(stack(layers.Conv2D(64, 3, activation="elu"), hidden))
    hidden = layers.MaxPooling2D(3)(stack(layers.Conv2D(64, 3, activation="elu"), hidden))
    return inputs, stack(layers.Dense(128, activation="elu"), layers.Flatten()(hidden))
