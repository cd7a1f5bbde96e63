"""The first call of `fit`: tracing and compiling, by the number of objectives.

    python -m benchmarks.compile_times jax           # or tensorflow
    python -m benchmarks.compile_times jax 2,16      # numbers of objectives

Processor seconds of all threads, which say more than the clock where others compute, too. Each line
is a process of its own, in which a plain Keras model of two outputs was compiled before.
"""

import json
import subprocess
import sys
import time
from typing import Any

from benchmarks import common

WIDTHS, BATCH = (256, 512, 512, 256), 256
COMBINE = ("keras", "sum", "upgrad")


def seconds(combine: str, tasks: int) -> float:
    """Of one `fit` of one batch, as the first of the model."""
    import keras

    import polytape as pt

    plain = combine == "keras"
    settings: dict[str, Any] = {} if plain else {"combine": combine, "verbose": 0}
    model = common.network(keras.Model if plain else pt.Model, WIDTHS, tasks)
    losses = dict.fromkeys(common.names(tasks), "mse")
    model.compile(keras.optimizers.SGD(1e-3), loss=losses, **settings)
    data = common.regression(WIDTHS[0], tasks, BATCH)
    start = time.process_time()
    model.fit(*data, batch_size=BATCH, verbose=0)
    return time.process_time() - start


def alone(backend: str, combine: str, tasks: int) -> float:
    """The same in another process."""
    command = [sys.executable, "-m", "benchmarks.compile_times", backend, combine, str(tasks)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    backend, rest = sys.argv[1], sys.argv[2:]
    if len(rest) == 2:
        common.choose(backend)
        seconds("keras", 2)
        print(json.dumps(seconds(rest[0], int(rest[1]))))
        return
    rows = []
    for tasks in map(int, rest[0].split(",") if rest else (2, 8, 32, 64)):
        found = {combine: alone(backend, combine, tasks) for combine in COMBINE}
        for combine, value in found.items():
            figures = f"{value:.1f}", f"{value / found['keras']:.2f}"
            rows.append([backend, str(tasks), combine, *figures])
            print(rows[-1], flush=True)
    print(common.table(["backend", "T", "combine", "seconds", "/ keras"], rows))


if __name__ == "__main__":
    main()
