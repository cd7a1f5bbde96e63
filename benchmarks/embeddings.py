"""A large table of embeddings under T objectives: the step's time and memory beside plain Keras's.

    python -m benchmarks.embeddings jax
    python -m benchmarks.embeddings jax memory upgrad     # one contender: peak above the start

Times are of one process, by turns; memory is of a process for each contender.
"""

import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.common import (
    Epoch,
    Fit,
    Resident,
    by_turns,
    choose,
    milliseconds,
    names,
    ratios,
    table,
)

WORDS, WIDTH, TASKS, BATCH = 1_000_000, 32, 4, 1024
CONTENDERS = ("keras", "sum", "upgrad")


class Lookup(Fit):
    """`fit` of a table, a hidden layer and T heads."""

    def __init__(self, combine: str, steps: int) -> None:
        import keras

        import polytape as pt

        keras.utils.set_random_seed(0)
        inputs = keras.Input((1,), dtype="int32")
        hidden = keras.layers.Flatten()(keras.layers.Embedding(WORDS, WIDTH)(inputs))
        hidden = keras.layers.Dense(WIDTH, activation="relu")(hidden)
        heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in names(TASKS)}
        cls: Any = keras.Model if combine == "keras" else pt.Model
        self.model = cls(inputs, heads)
        told = {} if combine == "keras" else {"combine": combine, "verbose": 0}
        losses = dict.fromkeys(heads, "mse")
        self.model.compile(keras.optimizers.SGD(1e-3), losses, **told)
        rng = np.random.default_rng(0)
        self.x = rng.integers(WORDS, size=(BATCH * steps, 1), dtype="int32")
        self.y = {name: rng.standard_normal((len(self.x), 1)).astype("float32") for name in heads}
        self.steps, self.epoch = steps, Epoch(self.model, BATCH)


def times(backend: str, turns: int = 15, steps: int = 5) -> None:
    runs = {combine: Lookup(combine, steps) for combine in CONTENDERS}
    found = by_turns(runs, turns)
    rows = [
        [backend, name, *milliseconds(seconds), *ratios(seconds, found["keras"])]
        for name, seconds in found.items()
    ]
    print(
        table(["backend", "combine", "ms", "best ms", "ratio", "middle half", "of the best"], rows)
    )


def memory(backend: str, combine: str) -> None:
    """In tables, above what the process has once the model is made; so many new ones per step."""
    fit = Lookup(combine, 3)
    with Resident() as resident:
        fit()
        fit()
    tables = resident.most / (4 * WORDS * WIDTH)
    print(f"| {backend} | {combine} | {tables:.2f} |", flush=True)


def main() -> None:
    backend = sys.argv[1]
    if sys.argv[2:3] == ["memory"]:
        choose(backend)
        memory(backend, sys.argv[3])
        return
    for combine in CONTENDERS:
        own = [sys.executable, "-m", "benchmarks.embeddings", backend, "memory", combine]
        subprocess.run(own, check=True)
    choose(backend)
    times(backend)


if __name__ == "__main__":
    main()
