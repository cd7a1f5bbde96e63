"""Memory of a training step: what its tensors take at most, and how far the process grows.

    python -m benchmarks.memory jax                # or tensorflow, torch

Fifty million weights (P bytes), four objectives, batch 8, SGD. *tensors*: the most that is alive at
once beside the variables. On TensorFlow as its allocator tells the profiler, on PyTorch likewise,
on JAX the temporaries of the compiled step. *process*: the most that `fit` adds to the resident
memory, which has the compiler and its code in it: XLA's take 100 to 250 MB, whatever P is.
Each line is a process of its own.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import common

WIDE, LAYERS, TASKS, BATCH = 3162, 5, 4, 8
WAYS = (("keras", ""), ("sum", "high"), ("upgrad", "high"), ("upgrad", "low"))


def highest(changes: Iterable[int]) -> int:
    """The most that is alive at once, of bytes taken and given back one after the other."""
    return max(itertools.accumulate(changes), default=0)


def in_tensorflow(model: Any, data: Any) -> int:
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, options):
            model.fit(*data, batch_size=BATCH, verbose=0)
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    found, sizes = [], {}
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if name.startswith("Memory"):
                    stats = {plane.stat_metadata[s.metadata_id].name: s for s in event.stats}
                    at = line.timestamp_ns * 1000 + event.offset_ps
                    address, size = (
                        getattr(stats[key], stats[key].WhichOneof("value"))
                        for key in ("addr", "requested_bytes")
                    )
                    found.append((at, name, address, size))
    changes = []
    for _, name, address, size in sorted(found):
        if name == "MemoryAllocation":
            sizes[address] = size
            changes.append(size)
        else:  # of what was there before, nothing is known
            changes.append(-sizes.pop(address, 0))
    return highest(changes)


def in_torch(model: Any, data: Any) -> int:
    import torch

    with torch.profiler.profile(profile_memory=True) as profile:
        model.fit(*data, batch_size=BATCH, verbose=0)
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return highest(change for _, change in sorted(changes))


def in_jax(model: Any, data: Any) -> int:
    return int(common.compiled(model, data).memory_analysis().temp_size_in_bytes)


TENSORS = {"tensorflow": in_tensorflow, "torch": in_torch, "jax": in_jax}


def measured(backend: str, combine: str, memory: str) -> tuple[float, float]:
    """Both, in units of the memory of the weights."""
    import keras

    import polytape as pt

    plain = combine == "keras"
    settings: dict[str, Any] = {} if plain else {"combine": combine, "memory": memory, "verbose": 0}
    widths = (WIDE,) * (LAYERS + 1)
    model = common.network(keras.Model if plain else pt.Model, widths, TASKS)
    model.compile(
        keras.optimizers.SGD(1e-3), loss=dict.fromkeys(common.names(TASKS), "mse"), **settings
    )
    data = common.regression(WIDE, TASKS, BATCH)
    with common.Resident() as resident:
        for _ in range(2):
            model.fit(*data, batch_size=BATCH, verbose=0)
    unit = 4 * model.count_params()
    return TENSORS[backend](model, data) / unit, resident.most / unit


def main() -> None:
    backend, rest = sys.argv[1], sys.argv[2:]
    if rest:
        common.choose(backend)
        print(json.dumps(measured(backend, *rest)))
        return
    os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "true"  # the one that tells
    rows = []
    for combine, memory in WAYS:
        command = [sys.executable, "-m", "benchmarks.memory", backend, combine, memory]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append([backend, combine, memory, *(f"{value:.2f}" for value in found)])
        print(rows[-1], flush=True)
    print(common.table(["backend", "combine", "memory=", "tensors / P", "process / P"], rows))


if __name__ == "__main__":
    main()
