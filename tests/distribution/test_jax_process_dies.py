"""If one of two processes dies, the other ends with an error, and does not wait for ever (JAX)."""

import subprocess
import sys
import time

import keras
import pytest

from jax_spread import environment, free_address

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution is of JAX"),
]
# As keras.distribution.initialize, which leaves JAX's 100 seconds between two signs of life.
PROGRAMME = """
import sys
import jax, keras

number, address = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(address, 2, number, heartbeat_timeout_seconds=10)
keras.utils.set_random_seed(0)

import jax_spread as here

class Tell(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print("epoch", epoch, flush=True)

here.HERE = here.Here(number, 2)
with here.spread("data 2"):
    model = here.compiled("upgrad")
    here.fitted(model, here.Batches.drawn(), epochs=10**6, callbacks=[Tell()])
"""


def test_the_other_ends() -> None:
    address = free_address()
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAMME, str(number), address],
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in pair:
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("epoch"):
                assert line, pair[0].stderr
        pair[1].kill()
        began = time.monotonic()
        _, errors = pair[0].communicate(timeout=120)
        assert time.monotonic() - began < 100
    finally:
        for process in pair:
            process.kill()
    assert pair[0].returncode != 0
    assert "Gloo all-reduce failed" in errors or "heartbeat timeout" in errors
