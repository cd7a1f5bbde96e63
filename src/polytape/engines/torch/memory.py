"""How much memory a device has."""

import keras
import torch

from polytape.engines.machine import machine_memory


def device_memory() -> int | None:
    device = keras.ops.zeros(()).device
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory() if device.type == "cpu" else None
