"""A function of a test run by several processes under one MultiWorkerMirroredStrategy, on loopback.

Its module is in tests/; it takes the strategy and keywords, and returns what can be pickled.
Nothing waits for ever.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from mirrored import MODULES, ROOT


def each_worker(
    module: str, function: str, count: int = 2, seconds: float = 500.0, **given: Any
) -> list[tuple[int | None, Any]]:
    """Of each worker the exit status and what the function returned, or the last words.

    The status is None if it had to be killed.
    """
    ports = _free(count)
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder, "order")
        order.write_bytes(pickle.dumps([module, function, given]))
        running = []
        for index in range(count):
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            told = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            path = os.pathsep.join(str(ROOT / each) for each in MODULES)
            env = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": path}
            env |= {"TF_CONFIG": json.dumps(told), "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [sys.executable, str(Path(__file__)), str(order), f"{folder}/{index}.found"]
            with Path(folder, f"{index}.said").open("w") as said:
                running.append(subprocess.Popen(command, env=env, stdout=said, stderr=said))
        try:
            return [_ended(one, Path(folder, str(n)), seconds) for n, one in enumerate(running)]
        finally:
            for one in running:
                one.kill()
                one.wait()


def _ended(process: Any, place: Path, seconds: float) -> tuple[int | None, Any]:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    found = place.with_suffix(".found")
    if code == 0:
        return code, pickle.loads(found.read_bytes())
    return code, place.with_suffix(".said").read_text()[-4000:]


def _free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    taken = [socket.socket() for _ in range(count)]
    for each in taken:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def _main(order: Path, found: Path) -> None:
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow
    module, function, given = pickle.loads(order.read_bytes())
    returned = getattr(import_module(module), function)(strategy, **given)
    found.write_bytes(pickle.dumps(returned))


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
