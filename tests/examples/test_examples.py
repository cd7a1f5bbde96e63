"""Every example runs as written, on every backend it is for."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BACKEND = keras.backend.backend()
STARTED_BY = {  # torchrun, by another name
    "torch_distributed": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(path):
    written_for = path.stem.removesuffix("_loop").removesuffix("_distributed")
    if written_for in ("jax", "tensorflow", "torch") and written_for != BACKEND:
        pytest.skip(f"written for {written_for}")
    run = subprocess.run(
        [sys.executable, *STARTED_BY.get(path.stem, ()), str(path)],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
