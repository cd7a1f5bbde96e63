"""How much memory a device has."""

import jax

from polytape.engines.machine import machine_memory


def device_memory() -> int | None:
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return machine_memory()
    return (device.memory_stats() or {}).get("bytes_limit")
