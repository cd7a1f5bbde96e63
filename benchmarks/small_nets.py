"""Step time on small networks: polytape's `fit` beside TorchJD on PyTorch.

    python -m benchmarks.small_nets [rounds [numbers of tasks]]

Every contender has a process of its own, with threads as it chooses, and they work by turns. The
data of TorchJD's loop lie ready as tensors; `fit` cuts its batches out of an array. Ratios are to
the TorchJD setting with the smallest median: on a busy machine its second thread is a burden.
"""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import common

WIDTHS, BATCH = (64, 64, 64, 64), 64
STEPS = 400  # an epoch: what Keras does at its end, 20 ms for 16 losses, shall not count as a step
METHODS = ("upgrad", "nashmtl", "mgda")
STEP = "tensorflow step"  # compiled, without what `fit` does around it
XLA_STEP = "tensorflow step, XLA"  # the same with `compile(jit_compile=True)`
ONE_BY_ONE, ONE_THREAD = "torchjd, chunks of 1", "torchjd, one thread"
TORCHJD = ("torchjd", ONE_BY_ONE, ONE_THREAD)
CONTENDERS = (*TORCHJD, "jax", "tensorflow", STEP, XLA_STEP)


def polytape(name: str, method: str, tasks: int) -> Callable[[], float]:
    common.choose(name.split()[0])
    import polytape as pt

    xla = True if name == XLA_STEP else "auto"  # which is none on a CPU
    fit = common.Fit(pt.Model, WIDTHS, tasks, BATCH, STEPS, combine=method, jit_compile=xla)
    return common.compiled_step(fit) if name in (STEP, XLA_STEP) else fit


def torchjd(name: str, method: str, tasks: int) -> Callable[[], float]:
    """A loop after TorchJD's documentation; returns what measures it."""
    import torch
    from torch.nn.functional import mse_loss
    from torchjd.aggregation import MGDA, NashMTL, UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    torch.manual_seed(0)
    if name == ONE_THREAD:
        torch.set_num_threads(1)
    chunk = 1 if name == ONE_BY_ONE else None
    steps = 3 if method == "nashmtl" else 50  # its solver takes tens of milliseconds or more
    layers: list[torch.nn.Module] = []
    for inner, outer in itertools.pairwise(WIDTHS):
        layers += [torch.nn.Linear(inner, outer), torch.nn.ReLU()]
    trunk = torch.nn.Sequential(*layers)
    heads = [torch.nn.Linear(WIDTHS[-1], 1) for _ in range(tasks)]
    makers = {"upgrad": UPGrad, "mgda": MGDA, "nashmtl": lambda: NashMTL(n_tasks=tasks)}
    aggregator = makers[method]()
    everything = [*trunk.parameters(), *(p for head in heads for p in head.parameters())]
    optimizer = torch.optim.SGD(everything, lr=1e-3)
    x, y = common.regression(WIDTHS[0], tasks, BATCH * steps)
    inputs = torch.from_numpy(x).split(BATCH)
    targets = list(zip(*(torch.from_numpy(part).split(BATCH) for part in y.values()), strict=True))

    def run() -> float:
        start = time.perf_counter()
        for batch, wanted in zip(inputs, targets, strict=True):
            features = trunk(batch)
            losses = [mse_loss(head(features), w) for head, w in zip(heads, wanted, strict=True)]
            mtl_backward(losses, features=features, parallel_chunk_size=chunk)
            jac_to_grad(trunk.parameters(), aggregator)
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - start) / steps

    return run


def work(framework: str, method: str, tasks: int) -> None:
    """Measure once for every line that comes in."""
    make = torchjd if framework.startswith("torchjd") else polytape
    run = make(framework, method, tasks)
    for _ in sys.stdin:
        print("seconds", run(), flush=True)


class Worker:
    """A process that measures when called."""

    def __init__(self, *args: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.small_nets", "--work", *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self) -> float:
        assert self.process.stdin
        assert self.process.stdout
        time.sleep(0.3)  # the idle threads of the process before may spin for a while
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds"):
                return float(line.split()[1])
        raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}.")

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def main(rounds: int = 11, *counts: int) -> None:
    rows = []
    for tasks in counts or (4, 16):
        for method in METHODS:
            workers = {name: Worker(name, method, tasks) for name in CONTENDERS}
            times = common.by_turns(workers, rounds)
            base = times[min(TORCHJD, key=lambda name: statistics.median(times[name]))]
            for name, worker in workers.items():
                worker.close()
                figures = common.ratios(times[name], base)
                rows.append([str(tasks), method, name, *common.milliseconds(times[name]), *figures])
                print(*rows[-1], flush=True)
    header = ["T", "method", "", "ms", "best ms", "ratio", "middle half", "of the best"]
    print(common.table(header, rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(*map(int, sys.argv[1:]))
