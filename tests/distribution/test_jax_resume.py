"""A checkpoint of N devices goes on on one and on M, and on the same N bit for bit (JAX)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from jax_spread import environment
from spread import CLOSE

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution is of JAX"),
]
CASES = [
    # method, devices of the checkpoint, and others on which it goes on
    ("upgrad", "scatter 8", "one device", "data 2"),
    ("mconfig", "model 2 x 4", "one device", "data 8"),
    ("famo", "data 8", "one device"),
    ("moco", "one device", "model 2 x 4"),
]
PROGRAMME = """
import contextlib, json, sys
from pathlib import Path
import keras, numpy as np
import jax_spread as here

folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
x, y = here.Batches.drawn()

def on(layout):
    return contextlib.nullcontext() if layout == "one device" else here.spread(layout)

def epoch(model):
    model.fit(x, y, batch_size=here.BATCH, shuffle=False, verbose=0)
    return here.trained(model.trainable_variables)

found = []
for method, layout, *others in cases:
    with on(layout):
        model = here.compiled(method, optimizer=keras.optimizers.Adam(0.01))
        start = epoch(model)
        model.save(folder / "m.keras")
        right = epoch(model)
    apart = {}
    for other in (layout, *others):
        with on(other):
            resumed = epoch(keras.models.load_model(folder / "m.keras"))
        apart[other] = float(np.linalg.norm(resumed - right) / np.linalg.norm(right - start))
    found.append(apart)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("resumed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAMME, str(folder), json.dumps(CASES)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES, ids=[", ".join(case[:2]) for case in CASES])
def test_resumed(resumed: Any, case: tuple[str, ...]) -> None:
    layout, apart = case[1], resumed[CASES.index(case)]
    assert apart.pop(layout) == 0.0  # bit for bit
    assert {other: distance < CLOSE for other, distance in apart.items()} == dict.fromkeys(
        apart, True
    )
