"""Microseconds per `weigh`: every Gramian method, as a step calls it, on each backend.

    python -m benchmarks.weigh_times [rounds [numbers of objectives]]

One process per backend, one for TorchJD if it is installed, and one for `pt.weigh` on PyTorch,
which checks what it is given and so takes longer. Everything is compiled first; then they work by
turns, one method at a time. A call gives the weights of one Gramian of T random rows, and the next
state: `jax.jit`, `tf.function` with XLA, and what PyTorch does in their place. Each call waits for
its result, so JAX is told not to hand the work to another thread, which can cost as much as the
work. TorchJD's is its weighting of the same Gramian, where it has the method; the last table has
PyTorch's times in units of it.
"""

import dataclasses
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.processes import Worker, answer, installed, questions

BACKENDS = ("jax", "tensorflow", "torch")
CALLED = "pt.weigh, torch"
COUNTS = (2, 4, 8, 16, 64)
TURN = 0.02  # seconds: a turn has as many calls as fit in
TARGETS = {"jax": 200.0, "tensorflow": 1000.0}  # microseconds for T = 8


def rows(count: int) -> np.ndarray:
    """Rows that conflict as much as random ones do, and differ in size."""
    rng = np.random.default_rng(count)
    found = rng.standard_normal((count, 2 * count)) * rng.uniform(0.3, 3, (count, 1))
    return found.astype("float32")


def gramian(count: int) -> np.ndarray:
    return rows(count) @ rows(count).T


def methods(backend: str) -> list[str]:
    """Those that see the Gramian; the backend counts at the first call only."""
    chosen = {"torchjd": "numpy", CALLED: "torch"}
    common.choose(chosen.get(backend, backend))
    from polytape.catalogue import all_methods

    return [name for name, cls in all_methods().items() if cls.needs == "gramian"]


def polytape(backend: str, name: str, count: int) -> Callable[[], Any]:
    import keras
    from keras import ops

    from polytape.catalogue import all_methods
    from polytape.contract import Evidence, Products, Seed, evaluate

    method = all_methods()[name]()
    names = tuple(map(str, range(count)))
    seed = keras.random.SeedGenerator(0).next()

    def question(products: Any, losses: Any, active: Any, step: Any, state: Any) -> Any:
        known = Evidence(losses, products, active, names, step, Seed(seed))
        known = dataclasses.replace(known, readings={"cross": Products(products)})
        return evaluate(method, known, state)

    function = _compiled(backend, question)
    losses = np.linspace(1.0, 2.0, count, dtype="float32")
    given = (gramian(count), losses, np.ones(count, bool), np.int32(0))
    tensors = [ops.convert_to_tensor(value) for value in given]
    state = keras.tree.map_structure(ops.convert_to_tensor, method.init(names))

    def call() -> None:
        nonlocal state
        weights, state = function(*tensors, state)
        np.asarray(weights)

    return call


def _compiled(backend: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    from polytape.engines import engine

    return engine().compiled(function, arrays=True)


def called(name: str, count: int) -> Callable[[], Any]:
    """`pt.weigh` of a tensor, checks included."""
    import torch

    import polytape as pt

    method, given = getattr(pt, name)(), torch.from_numpy(gramian(count))
    more: dict[str, Any] = {}
    if "half_batches" in method.evidence:
        more["cross"] = given
    return lambda: pt.weigh(method, given, **more)[0].numpy()


def torchjd(name: str, count: int) -> Callable[[], Any] | None:
    """TorchJD's method of that name, with the settings nearest to ours; None if it has none.

    Of a Gramian, but for ConFIG and Nash-MTL, which come with the rows only.
    """
    import torch
    from torchjd import aggregation as jd

    makers: dict[str, Callable[[], Any]] = {
        "AlignedMTL": jd.AlignedMTLWeighting,
        "CAGrad": lambda: jd.CAGradWeighting(c=0.4),
        "ConFIG": jd.ConFIG,
        "DualProj": jd.DualProjWeighting,
        "FairGrad": lambda: jd.FairGradWeighting(alpha=2.0),
        "GradVac": jd.GradVacWeighting,
        "IMTLG": jd.IMTLGWeighting,
        "Krum": lambda: jd.KrumWeighting(n_byzantine=0),
        "MGDA": jd.MGDAWeighting,
        "MoDo": jd.MoDoWeighting,
        "NashMTL": lambda: jd.NashMTL(n_tasks=count),
        "PCD": jd.PCDWeighting,
        "PCGrad": jd.PCGradWeighting,
        "SDMGrad": jd.SDMGradWeighting,
        "UPGrad": jd.UPGradWeighting,
    }
    if name not in makers:
        return None
    weighting = makers[name]()
    from_rows = name in ("ConFIG", "NashMTL")
    given = torch.from_numpy(rows(count) if from_rows else gramian(count))
    return lambda: weighting(given).numpy()


class Turns:
    """Seconds per call, as many calls as fit in a turn; not a number once one has failed."""

    def __init__(self, call: Callable[[], Any] | None) -> None:
        self.call, self.calls = call, 1
        seconds = self(), self(), self()
        if self.call is not None:
            self.calls = max(1, round(TURN / min(seconds)))

    def __call__(self) -> float:
        if self.call is None:
            return math.nan
        try:
            self.call()  # caches are cold after a pause
            start = time.perf_counter()
            for _ in range(self.calls):
                self.call()
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)
            self.call = None
            return math.nan
        return (time.perf_counter() - start) / self.calls


def work(contender: str, counts: list[int]) -> None:
    """Compile everything, then measure one for every line "method count" that comes in."""
    if contender == "jax":
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)  # before anything is computed
    known = {}
    for count, name in itertools.product(counts, methods(contender)):
        if contender in (CALLED, "torchjd"):
            call = (torchjd if contender == "torchjd" else called)(name, count)
        else:
            call = polytape(contender, name, count)
        known[f"{name} {count}"] = Turns(call)
    answer("ready")
    for question in questions():
        answer(known[question]())


def main(rounds: int = 7, *counts: int) -> None:
    counts = counts or COUNTS
    peers = ("torchjd",) if installed("torchjd") else ()
    contenders = (*BACKENDS, CALLED, *peers)
    module = "benchmarks.weigh_times"
    workers = {name: Worker(module, "--work", name, *counts, echo=True) for name in contenders}
    for worker in workers.values():
        worker.wait()
    print("compiled", flush=True)
    cases = list(itertools.product(counts, methods("numpy")))
    times: dict[Any, list[float]] = {}
    for _, (count, name), contender in itertools.product(range(rounds), cases, contenders):
        seconds = float(workers[contender].ask(f"{name} {count}"))
        times.setdefault((count, name, contender), []).append(seconds)
    for count in counts:
        lines = [
            [name, *(_cell(times[count, name, contender]) for contender in contenders)]
            for case, name in cases
            if case == count
        ]
        print(f"\nT = {count}\n\n" + common.table(["method", *contenders], lines))
    if peers:
        print("\nPyTorch, in units of TorchJD's time\n\n" + _beside_torchjd(times, counts))
    print("\n" + "\n".join(_misses(times)))


def _beside_torchjd(times: dict[Any, list[float]], counts: Sequence[int]) -> str:
    """Ratios of medians: of the algebra alone, and of `pt.weigh`."""
    lines = []
    for name in dict.fromkeys(name for _, name, _ in times):
        cells = []
        for count in counts:
            own, called, peer = (
                statistics.median(times[count, name, who]) for who in ("torch", CALLED, "torchjd")
            )
            cells.append("" if math.isnan(peer) else f"{own / peer:.2f} / {called / peer:.2f}")
        if any(cells):
            lines.append([name, *cells])
    return common.table(["method", *(f"T = {count}" for count in counts)], lines)


def _cell(seconds: list[float]) -> str:
    """Median and best, in microseconds."""
    if math.isnan(seconds[-1]):
        return ""
    return f"{1e6 * statistics.median(seconds):.0f} / {1e6 * min(seconds):.0f}"


def _misses(times: dict[Any, list[float]]) -> Iterator[str]:
    for contender, target in TARGETS.items():
        found = {
            name: 1e6 * statistics.median(seconds)
            for (count, name, who), seconds in times.items()
            if who == contender and count == 8
        }
        missed = [f"{name} ({time:.0f})" for name, time in found.items() if not time < target]
        yield (
            f"{contender}, T = 8: {len(found) - len(missed)} of {len(found)} below {target:.0f} us"
            + (f"; not {', '.join(missed)}" if missed else "")
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], [int(count) for count in sys.argv[3:]])
    else:
        main(*map(int, sys.argv[1:]))
