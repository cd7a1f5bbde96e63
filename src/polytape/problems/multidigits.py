"""Two overlapping digits in one small image: read both of them, and restore the image."""

from typing import Any

import keras
import numpy as np

from polytape.problems.problem import Data, Problem

_SIDE = 12  # of the overlaid image; the digits are 8 x 8, so they share a 4 x 4 square
_TRAIN, _VALIDATION = 6000, 1500


def multidigits() -> Problem:
    """Real scanned digits from scikit-learn, one in the upper left corner, one in the lower right.

    "left" and "right" are classifications into ten digits (accuracy), "image" restores the
    overlaid picture (mean squared error). All three speak through the same 12 numbers, so what one
    of them gains there, another loses. Training and validation images are made from different
    scans.
    """
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Problem(
        name="multidigits",
        description="Two overlapping scanned digits: name both, and restore the image.",
        objectives=("left", "right", "image"),
        build=_build,
        data=_data,
        losses={"left": cross_entropy, "right": cross_entropy, "image": "mse"},
        metrics={"left": ["accuracy"], "right": ["accuracy"], "image": ["mse"]},
        headline={
            "left": ("accuracy", "max"),
            "right": ("accuracy", "max"),
            "image": ("mse", "min"),
        },
        batch_size=128,
        learning_rate=5e-3,
    )


def _build() -> tuple[Any, dict[str, Any]]:
    layers = keras.layers
    inputs = keras.Input((_SIDE, _SIDE), name="picture")
    trunk = layers.Flatten()(inputs)
    trunk = layers.Dense(96, activation="relu", name="wide")(trunk)
    narrow = layers.Dense(12, activation="tanh", name="narrow")(trunk)
    left = layers.Dense(10, name="left")(narrow)
    right = layers.Dense(10, name="right")(narrow)
    image = layers.Dense(_SIDE * _SIDE, activation="sigmoid", name="pixels")(narrow)
    image = layers.Reshape((_SIDE, _SIDE), name="image")(image)
    return inputs, {"left": left, "right": right, "image": image}


def _data() -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = (digits.images / 16).astype("float32")
    labels = digits.target.astype("int32")
    random = np.random.default_rng(0)
    order = random.permutation(len(scans))
    train, validation = order[:1300], order[1300:]  # by scan: no digit is seen in both
    x_train, y_train = _overlay(scans, labels, train, _TRAIN, random)
    x_val, y_val = _overlay(scans, labels, validation, _VALIDATION, random)
    return x_train, y_train, x_val, y_val


def _overlay(
    scans: np.ndarray,
    labels: np.ndarray,
    source: np.ndarray,
    pairs: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    left, right = random.choice(source, pairs), random.choice(source, pairs)
    images = np.zeros((pairs, _SIDE, _SIDE), "float32")
    images[:, :8, :8] = scans[left]
    images[:, -8:, -8:] = np.maximum(images[:, -8:, -8:], scans[right])
    return images, {"left": labels[left], "right": labels[right], "image": images}
