"""What cannot be right on several devices is refused on JAX, before the first step."""

import subprocess
import sys

import keras
import pytest

from jax_spread import environment

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution is of JAX"),
]
PROGRAMME = """
import jax, keras, numpy as np, polytape as pt
from jax.sharding import PartitionSpec as P
from small import LOSSES, data, model

def refused(run, *words):
    try:
        run()
    except RuntimeError as error:
        assert all(word in str(error) for word in words), error
        return
    raise SystemExit(f"not refused: {words}")

def compiled(optimizer="sgd"):
    found = model()
    found.compile(optimizer, LOSSES, combine="upgrad")
    return found

outside, optimizer = compiled(), keras.optimizers.SGD()
everywhere = keras.distribution.DataParallel()
with everywhere.scope():
    refused(lambda: outside.fit(*data(8), verbose=0), "fit()", "trunk/kernel", "on one device",
            "the distribution has 4 devices", "before model and optimizer are made")
    refused(lambda: outside.compile("sgd", LOSSES, combine="upgrad"), "compile()", "trunk/kernel")
    late = compiled(optimizer)
    refused(lambda: late.fit(*data(8), verbose=0), "is on one device")
    inside = compiled()
    inside.fit(*data(8), batch_size=8, verbose=0)
refused(lambda: inside.fit(*data(8), verbose=0), "on 4 devices", "there is no distribution now")
two = keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:2])
with two.scope():
    refused(lambda: inside.fit(*data(8), verbose=0), "on 4 devices", "distribution has 2 devices")

w = keras.Variable([1.0, 2.0])

def rows(x):
    grads = pt.gradients(lambda: {"a": keras.ops.sum(w * x), "b": keras.ops.sum(w)}, [w])
    return grads.gramian

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("parts",))
words = "pt.gradients: inside a shard_map or pmap", "each device has a part of the batch"
if "get_abstract_mesh" in dir(jax.sharding):
    parts = jax.shard_map(rows, mesh=mesh, in_specs=P("parts"), out_specs=P(), check_vma=False)
    refused(lambda: jax.jit(parts)(np.ones(8, "float32")), *words, "'parts'")
    refused(lambda: jax.pmap(rows, axis_name="z")(np.ones((4, 2), "float32")), *words, "'z'")
many = jax.vmap(rows, axis_name="members")(np.ones((3, 2), "float32"))  # each its own problem
assert many.shape == (3, 2, 2)
print("refused")
"""


def test_refusals() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAMME],
        env=environment(4),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.endswith("refused\n"), done.stdout + done.stderr[-3000:]
