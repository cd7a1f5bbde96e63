"""Nets with every kind of layer of Keras's that has weights; tied and nested ones, too."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

N = 3
Net = tuple[Callable[[], list[Any]], tuple[int, ...]]


class OwnWeights(layers.Layer):
    """A layer of which nothing is known: an outer fall-back, with a weight that is a scalar."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")
        self.g = self.add_weight(shape=(), initializer="ones", name="g")

    def call(self, x):
        return ops.tanh(ops.matmul(x, self.w)) * self.g


class OwnAndBelow(layers.Layer):
    """Has weights of its own and a layer with others."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def build(self, shape):
        self.w = self.add_weight(shape=(3,), initializer="ones", name="w")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) * self.w


class Parallel(layers.Layer):
    """Has layers only, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two = layers.Dense(6, activation="tanh"), layers.Dense(6)

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x):
        return self.two(self.one(x)) + self.two(x)


class Grouped(layers.Layer):
    """A layer of one's own whose convolution keeps groups of channels apart."""

    def build(self, shape):
        self.w = self.add_weight(shape=(2, 2, 2, 6), name="w")

    def call(self, x):
        return ops.conv(x, self.w)


class Attended(layers.Layer):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        if isinstance(self.layer, (layers.Attention, layers.AdditiveAttention)):
            return self.layer([x, x])
        return self.layer(x, x)


class Tied(layers.Layer):
    """The same table looks up and gives out."""

    def __init__(self):
        super().__init__()
        self.table = layers.ReversibleEmbedding(11, 4)
        self.dense = layers.Dense(4, activation="tanh")

    def build(self, shape):
        self.table.build()
        self.dense.build((None, 4))

    def call(self, x):
        return self.table(self.dense(self.table(x)), reverse=True)


def twice() -> list[Any]:
    dense = layers.Dense(6, activation="tanh")
    return [dense, dense]


def lora() -> list[Any]:
    dense = layers.Dense(3)
    dense.build((None, 6))
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones((2, 3)))
    return [dense]


NETS: dict[str, Net] = {
    "dense": (lambda: [layers.Dense(7, "elu"), layers.Dense(3)], (6,)),
    "dense over steps": (lambda: [layers.Dense(7, "tanh"), layers.Dense(3)], (5, 6)),
    "dense over few steps": (lambda: [layers.Dense(40, "tanh"), layers.Dense(30)], (2, 6)),
    "dense of a softmax layer": (lambda: [layers.Dense(4, layers.Softmax())], (6,)),
    "conv1d causal": (lambda: [layers.Conv1D(3, 3, padding="causal", dilation_rate=2)], (9, 2)),
    "conv2d": (lambda: [layers.Conv2D(3, 3, activation="elu"), layers.Conv2D(2, 2)], (7, 6, 2)),
    "conv2d same, strided": (lambda: [layers.Conv2D(3, (3, 2), 2, "same")], (7, 6, 2)),
    "conv2d by groups": (lambda: [layers.Conv2D(6, 2, groups=2)], (5, 4, 4)),
    "conv2d, few places": (lambda: [layers.Conv2D(40, 3)], (4, 4, 40)),
    "conv2d, large kernel": (lambda: [layers.Conv2D(2, 9, activation="elu")], (10, 9, 1)),
    "conv3d": (lambda: [layers.Conv3D(2, 2)], (3, 3, 3, 2)),
    "depthwise1d": (lambda: [layers.DepthwiseConv1D(3)], (6, 2)),
    "depthwise2d": (lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2)], (5, 4, 3)),
    "separable1d": (lambda: [layers.SeparableConv1D(3, 2)], (6, 2)),
    "separable2d": (lambda: [layers.SeparableConv2D(3, 2)], (5, 4, 2)),
    "transposed1d": (lambda: [layers.Conv1DTranspose(3, 2)], (5, 2)),
    "transposed2d": (lambda: [layers.Conv2DTranspose(3, 2, activation="tanh")], (4, 4, 2)),
    "transposed3d": (lambda: [layers.Conv3DTranspose(2, 2)], (2, 2, 2, 2)),
    "embedding": (lambda: [layers.Embedding(11, 4), layers.Dense(2)], (5, -11)),
    "embedding, large": (lambda: [layers.Embedding(99, 8), layers.Flatten()], (2, -11)),
    "layer norm": (lambda: [layers.Dense(6), layers.LayerNormalization()], (4, 6)),
    "layer norm over two": (lambda: [layers.LayerNormalization(axis=(1, 2))], (4, 6)),
    "group norm": (lambda: [layers.GroupNormalization(3)], (4, 6)),
    "rms norm": (lambda: [layers.RMSNormalization()], (4, 6)),
    "batch norm, at rest": (lambda: [layers.BatchNormalization()], (4, 6)),
    "prelu": (lambda: [layers.PReLU(), layers.Dense(2)], (6,)),
    "einsum": (
        lambda: [
            layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", activation="tanh"),
            layers.EinsumDense("abde,def->abf", (None, 2), bias_axes="f"),
        ],
        (4, 6),
    ),
    "einsum by steps": (lambda: [layers.EinsumDense("abc,bcd->abd", (4, 3))], (4, 6)),
    "einsum with dots": (
        lambda: [layers.EinsumDense("...a,ab->...b", (4, 2), bias_axes="b", activation="tanh")],
        (4, 6),
    ),
    "einsum of two axes": (lambda: [layers.EinsumDense("abb,bc->abc", (4, 2))], (4, 4)),
    "multi-head": (lambda: [Attended(layers.MultiHeadAttention(2, 3))], (4, 6)),
    "grouped query": (lambda: [Attended(layers.GroupQueryAttention(3, 4, 2))], (4, 6)),
    "attention": (lambda: [Attended(layers.Attention(use_scale=True))], (4, 6)),
    "additive attention": (lambda: [Attended(layers.AdditiveAttention())], (4, 6)),
    "lstm": (lambda: [layers.LSTM(2, return_sequences=True), layers.Dense(2)], (3, 4)),
    "gru": (lambda: [layers.GRU(2)], (3, 4)),
    "simple rnn": (lambda: [layers.SimpleRNN(2)], (3, 4)),
    "bidirectional": (lambda: [layers.Bidirectional(layers.SimpleRNN(2))], (3, 4)),
    "stacked cells": (lambda: [layers.RNN([layers.GRUCell(2), layers.GRUCell(2)])], (3, 4)),
    "conv lstm": (lambda: [layers.ConvLSTM1D(2, 2)], (2, 4, 2)),
    "time distributed": (lambda: [layers.TimeDistributed(layers.Dense(3))], (3, 4)),
    "spectral norm, at rest": (lambda: [layers.SpectralNormalization(layers.Dense(3))], (6,)),
    "lora": (lora, (6,)),
    "unknown": (lambda: [OwnWeights()], (6,)),
    "unknown by groups": (lambda: [Grouped()], (5, 4, 4)),
    "unknown with layers": (lambda: [OwnAndBelow()], (6,)),
    "used twice": (twice, (6,)),
    "in parallel": (lambda: [Parallel()], (6,)),
    "tied": (lambda: [Tied()], (3, -11)),
    "nested": (
        lambda: [
            keras.Sequential([keras.Input((6,)), layers.Dense(4, "elu"), layers.Dropout(0.5)]),
            layers.Dense(2),
        ],
        (6,),
    ),
}


def built(name: str) -> tuple[keras.Model, Any]:
    """A net whose weights, and a batch for it whose numbers, come from NumPy."""
    rng = np.random.default_rng(sum(map(ord, name)))
    make, shape = NETS[name]
    if shape[-1] < 0:  # of so many class numbers
        shape, numbers = shape[:-1], -shape[-1]
        data, kind = rng.integers(0, numbers, (N, *shape)).astype("int32"), "int32"
    else:
        data, kind = rng.normal(size=(N, *shape)).astype("float32"), "float32"
    model = keras.Sequential([keras.Input(shape, dtype=kind), *dict.fromkeys(make())])
    if name == "used twice":
        dense, inputs = model.layers[-1], keras.Input(shape)
        model = keras.Model(inputs, dense(dense(inputs)))
    for variable in model.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape) + 0.2)
    return model, ops.convert_to_tensor(data)
