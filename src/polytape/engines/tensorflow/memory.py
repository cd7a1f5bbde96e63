"""How much memory a device has."""

import tensorflow as tf

from polytape.engines.machine import machine_memory


def device_memory() -> int | None:
    # Of an accelerator TensorFlow tells what is in use, and not how much there is.
    return None if tf.config.list_logical_devices("GPU") else machine_memory()
