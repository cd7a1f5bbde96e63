"""What the benchmarks share: networks, data, and measuring by turns.

Import it before Keras: `choose` sets the backend.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def compiled(model: Any, data: Any, sharded: bool = False) -> Any:
    """The executable of a training step of a model that was built, on JAX.

    sharded  whether the variables lie where a distribution has put them
    """
    import jax

    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    settings: dict[str, Any] = {"donate_argnums": 0}
    if sharded:
        settings["out_shardings"] = None, jax.tree.map(lambda value: value.sharding, state)
    return jax.jit(model.train_step, **settings).lower(state, data).compile()


class Resident:
    """The most memory that this process has, beside what it had in the beginning."""

    def __enter__(self) -> "Resident":
        self.start, self.most, self._goes = self._now(), 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._goes = False
        self._thread.join()

    def _watch(self) -> None:
        while self._goes:
            self.most = max(self.most, self._now() - self.start)
            time.sleep(0.001)

    @staticmethod
    def _now() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Spent:
    """Seconds: on the clock, and of the processor in all threads of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Spent":
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: "Spent") -> "Spent":
        return Spent(self.wall - start.wall, self.cpu - start.cpu)


class Epoch:
    """`fit` over data in memory; returns what was spent from its epoch's beginning to its end."""

    def __init__(self, model: Any, batch: int) -> None:
        import keras

        class Clock(keras.callbacks.Callback):  # no batch hooks: those would slow Keras down
            start = spent = Spent(0.0, 0.0)

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                del epoch, logs
                self.start = Spent.now()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                del epoch, logs
                self.spent = Spent.now().since(self.start)

        self.model, self.batch, self.clock = model, batch, Clock()

    def __call__(self, x: Any, y: Any) -> Spent:
        self.model.fit(
            x, y, batch_size=self.batch, shuffle=False, verbose=0, callbacks=[self.clock]
        )
        return self.clock.spent


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
        self.steps, self.epoch = steps, Epoch(self.model, batch)

    def __call__(self) -> float:
        """One epoch of `fit`."""
        return self.epoch(self.x, self.y).wall / self.steps


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
