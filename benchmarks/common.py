"""What the benchmarks share: networks, data, and measuring by turns.

Import it before Keras: `choose` sets the backend.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def choose(backend: str) -> None:
    """Make Keras start with this backend, quietly."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def network(cls: type, widths: Sequence[int], tasks: int) -> Any:
    """Dense ReLU layers, `widths[0]` being the input's, then one linear head per task."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = hidden = keras.Input((widths[0],))
    for width in widths[1:]:
        hidden = keras.layers.Dense(width, activation="relu")(hidden)
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in names(tasks)}
    return cls(inputs, heads)


def names(tasks: int) -> list[str]:
    return [f"task{index}" for index in range(tasks)]


def regression(width: int, tasks: int, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Inputs and one target per task, each a different linear function: gradients conflict."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, width)).astype("float32")
    truth = rng.standard_normal((width, tasks)).astype("float32") / width**0.5
    targets = x @ truth
    return x, {name: targets[:, index : index + 1] for index, name in enumerate(names(tasks))}


class Fit:
    """`fit` for a number of steps on data in memory; calling it returns seconds per step."""

    def __init__(
        self, cls: type, widths: Sequence[int], tasks: int, batch: int, steps: int, **compiled: Any
    ) -> None:
        import keras

        self.model = network(cls, widths, tasks)
        losses = dict.fromkeys(names(tasks), "mse")
        compiled.setdefault("optimizer", keras.optimizers.SGD(1e-3))
        self.model.compile(loss=losses, **compiled)
        self.x, self.y = regression(widths[0], tasks, batch * steps)
        self.batch, self.steps = batch, steps

        self.clock = self.watched()

    @staticmethod
    def watched() -> Any:
        """A callback that takes the time of an epoch."""
        import keras

        class Clock(keras.callbacks.Callback):  # no batch hooks: those would slow Keras down
            seconds = 0.0

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                del epoch, logs
                self.seconds = -time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                del epoch, logs
                self.seconds += time.perf_counter()

        return Clock()

    def __call__(self) -> float:
        """One epoch of `fit`."""
        self.model.fit(
            self.x,
            self.y,
            batch_size=self.batch,
            shuffle=False,
            verbose=0,
            callbacks=[self.clock],
        )
        return self.clock.seconds / self.steps


def compiled_step(fit: Fit) -> Callable[[], float]:
    """The same step on TensorFlow, compiled, on one batch, without what `fit` does around it."""
    import tensorflow as tf

    fit()
    function = tf.function(fit.model.train_step, jit_compile=fit.model.jit_compile)
    x = tf.constant(fit.x[: fit.batch])
    y = {name: tf.constant(targets[: fit.batch]) for name, targets in fit.y.items()}

    def run() -> float:
        start = time.perf_counter()
        for _ in range(fit.steps):
            logs = function((x, y))
        float(logs["loss"])
        return (time.perf_counter() - start) / fit.steps

    return run


def by_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds per step of each run, A B C A B C ... The first turn, which compiles, is left out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if turn:
                times[name].append(seconds)
    return times


def ratios(times: list[float], base: list[float]) -> list[str]:
    """Median of the ratios within a round, the middle half of them, the ratio of the best times."""
    found = [a / b for a, b in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(found, n=4)
    return [f"{middle:.2f}", f"{low:.2f}-{high:.2f}", f"{min(times) / min(base):.2f}"]


def milliseconds(times: list[float]) -> list[str]:
    """Median and best."""
    return [f"{1e3 * statistics.median(times):.2f}", f"{1e3 * min(times):.2f}"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
