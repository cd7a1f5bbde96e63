"""A step that scatters its rows runs once for each device, and keeps the same on all (JAX)."""

import json
import subprocess
import sys
from typing import Any

import keras
import pytest

from jax_spread import environment

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution is of JAX"),
]
PROGRAMME = """
import json, re
import keras, numpy as np
import jax_spread as here
from small import model

def busy():  # with BatchNormalization and Dropout
    found = model(busy=True)
    losses = {"a": "mse", "b": "huber", "c": "sparse_categorical_crossentropy"}
    found.compile(keras.optimizers.Adam(0.01), losses, combine="upgrad", **here.WAY)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = {"a": x[:, :1], "b": -x[:, :1], "c": (x[:, 1] > 0).astype("int32")}
    logs = found.fit(x, y, batch_size=16, shuffle=False, verbose=0, epochs=2).history
    others = [v for v in found.non_trainable_variables if "method" not in v.path]
    state = {re.sub(r"_\\d+", "", v.path): v for v in others}
    kept = {path: here.trained([v]).tolist() for path, v in state.items()}
    weights = here.trained([*found.trainable_variables, *found.optimizer.variables])
    return kept, logs, bool(np.isfinite(weights).all())

one = busy()
with here.spread("scatter 4"):
    several = busy()
print(json.dumps([one, several]))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAMME],
        env=environment(4),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_statistics_are_means_and_seeds_go_on_alike(found: Any) -> None:
    (one, _, _), (several, _, finite) = found
    assert finite
    assert one.keys() == several.keys()
    seeds = [path for path in one if "seed" in path]
    means = [path for path in one if "moving_mean" in path]
    assert seeds
    assert means
    for path in seeds:
        assert several[path] == one[path]
    for path in means:  # masks are others, so the trainings are
        assert several[path] == pytest.approx(one[path], abs=0.1)


def test_logs_are_of_the_whole_batch(found: Any) -> None:
    (_, one, _), (_, several, _) = found
    assert one.keys() == several.keys()
    for name, values in one.items():
        assert several[name] == pytest.approx(values, rel=0.25)
