"""Functions of tests run by a fresh process whose CPU is several devices, under one strategy.

A function is named by its module in tests/, takes a `tf.distribute.MirroredStrategy` over all of
them and keywords, and returns what can be pickled. TensorFlow's collectives take one strategy to a
process. Nothing waits for ever.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("tests/helpers", "tests/distribution", "src")


def on_devices(module: str, function: str, count: int, seconds: float = 600.0, **given: Any) -> Any:
    """What the function returns on `count` devices; raises with its last words if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        order, found = Path(folder, "order"), Path(folder, "found")
        order.write_bytes(pickle.dumps([module, function, count, given]))
        path = os.pathsep.join(str(ROOT / each) for each in MODULES)
        env = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), str(order), str(found)],
            env={**env, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return pickle.loads(found.read_bytes())


def parted(strategy: Any, variables: Any) -> list[str]:
    """The paths of variables of which replicas hold different bits."""
    found = []
    for variable in variables:
        first, *others = (
            copy.numpy() for copy in strategy.experimental_local_results(variable.value)
        )
        if any(copy.tobytes() != first.tobytes() for copy in others):
            found.append(variable.path)
    return found


def _main(order: Path, found: Path) -> None:
    import tensorflow as tf

    module, function, count, given = pickle.loads(order.read_bytes())
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{place}" for place in range(count)])
    returned = getattr(import_module(module), function)(strategy, **given)
    found.write_bytes(pickle.dumps(returned))


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
