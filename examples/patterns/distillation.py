"""Distillation: a student learns from few labels and from a frozen teacher.

By hand the teacher is forgotten in the optimizer's variable list and drifts, or it is called in
training mode and its dropout and statistics of normalisation move; the unlabelled samples are left
out of the batch by hand; and the softened loss loses its factor of temperature squared, so that
changing the temperature changes the balance. Here the teacher has no trainable variable and is
called with `training=False`; NaN means that there is no label, and the loss of the labels is the
mean over those that are there.

KERAS_BACKEND=torch python examples/patterns/distillation.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import polytape as pt

TEMPERATURE = 4.0


def forward(networks: Mapping[str, Any], image: Any) -> dict[str, Any]:
    return {
        "student": networks["student"](image),  # (N, 10) logits
        "teacher": ops.stop_gradient(networks["teacher"](image, training=False)),
    }


def imitation(step: pt.Step) -> Any:
    """Cross entropy of the softened distributions, times the temperature squared."""
    wanted = ops.softmax(step.outputs["teacher"] / TEMPERATURE)
    found = ops.log_softmax(step.outputs["student"] / TEMPERATURE)
    return -(TEMPERATURE**2) * ops.mean(ops.sum(wanted * found, axis=-1))


def pretrained(images: np.ndarray, digits: np.ndarray) -> keras.Model:
    """A network trained elsewhere."""
    images = images.astype("float64")  # in float32 the outcome hangs on the processor
    found = MLPClassifier(64, early_stopping=True, random_state=0).fit(images, digits)
    hidden = layers.Dense(64, activation="relu")
    teacher = keras.Sequential([keras.Input((64,)), hidden, layers.Dense(10)], name="teacher")
    pairs = zip(found.coefs_, found.intercepts_, strict=True)
    teacher.set_weights([array for pair in pairs for array in pair])
    teacher.trainable = False
    return teacher


def build() -> tuple[keras.Model, dict[str, Any]]:
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    labelled = np.random.default_rng(0).uniform(size=len(digits)) < 0.05
    labels = np.where(labelled, digits, np.nan).astype("float32")

    hidden = layers.Dense(16, activation="relu")
    student = keras.Sequential([keras.Input((64,)), hidden, layers.Dense(10)], name="student")
    teacher = pretrained(images, digits)
    model = pt.Model(networks={"student": student, "teacher": teacher}, forward=forward)
    label_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        objectives=[
            pt.Objective("labels", label_loss, trains="student", output="student", target="digit"),
            pt.Objective("imitation", imitation, trains="student", weight=0.5),
        ],
        optimizer=keras.optimizers.Adam(1e-2),
    )
    return model, {"x": images, "y": {"digit": labels}, "batch_size": 256}


def main(epochs: int = 25) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    digits = load_digits().target
    outputs = model.predict(data["x"], verbose=0)
    found = {name: float(np.mean(outputs[name].argmax(1) == digits)) for name in outputs}
    print("accuracy", {name: round(value, 4) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
