"""The programs of `docs/several-devices.md` run as they stand there, on several devices.

That of PyTorch is `examples/torch_distributed.py`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = keras.backend.backend()
pytestmark = pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="none but these")

TENSORFLOW = """
import keras, numpy as np, polytape as pt, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
y = {"a": x[:, :1], "b": -x[:, :1]}
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
def network():
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    return inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in y}
def make_model():
    return keras.Model(*network())
"""
BEFORE = {"tensorflow": TENSORFLOW, "jax": "import keras, numpy as np, polytape as pt\n"}


def programs(title: str) -> list[str]:
    """The programs of a section."""
    text = (ROOT / "docs" / "several-devices.md").read_text(encoding="utf-8")
    section = next(part for part in text.split("\n## ") if part.startswith(title))
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(code: str) -> None:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    settings = {"KERAS_BACKEND": BACKEND, "PYTHONPATH": path, "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr[-3000:]}"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_tensorflow() -> None:
    fit, loop = programs("TensorFlow")
    fit = fit.replace(
        "    model = pt.Model", "    inputs, outputs = network()\n    model = pt.Model"
    )
    run(BEFORE[BACKEND] + fit + loop)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_jax() -> None:
    data_parallel, model_parallel = programs("JAX")
    run(data_parallel)
    rest = data_parallel.split("\n\n", maxsplit=1)[1]
    run(BEFORE[BACKEND] + model_parallel + rest)
