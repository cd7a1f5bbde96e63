"""Step time on small networks: polytape's `fit` beside TorchJD on PyTorch.

    python -m benchmarks.small_nets

Every framework has a process of its own, with threads as it chooses, and they work by turns. The
data of TorchJD's loop lie ready as tensors; `fit` cuts its batches out of an array.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import common

WIDTHS, BATCH = (64, 64, 64, 64), 64
METHODS = ("upgrad", "nashmtl", "mgda")
FRAMEWORKS = ("torchjd", "jax", "tensorflow")


def fit(backend: str, method: str, tasks: int) -> Callable[[], float]:
    common.choose(backend)
    import polytape as pt

    return common.Fit(pt.Model, WIDTHS, tasks, BATCH, 100, combine=method)


def torchjd(method: str, tasks: int, chunk: int | None, steps: int = 50) -> Callable[[], float]:
    """A loop after TorchJD's documentation; returns what measures it."""
    import time

    import torch
    from torch.nn.functional import mse_loss
    from torchjd.aggregation import MGDA, NashMTL, UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inner, outer in zip(WIDTHS, WIDTHS[1:], strict=False):
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
    if framework.startswith("torchjd"):
        chunk = 1 if framework.endswith("one by one") else None
        run = torchjd(method, tasks, chunk)
    else:
        run = fit(framework, method, tasks)
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
        assert self.process.stdin and self.process.stdout
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


def main(rounds: int = 11) -> None:
    rows = []
    contenders = (*FRAMEWORKS, "torchjd one by one")
    for tasks in (4, 16):
        for method in METHODS:
            workers = {name: Worker(name, method, tasks) for name in contenders}
            times = common.by_turns(workers, rounds)
            for worker in workers.values():
                worker.close()
            for name in contenders:
                ratio = common.ratios(times[name], times["torchjd"])
                row = [str(tasks), method, name, common.milliseconds(times[name]), ratio]
                rows.append(row)
                print(row, flush=True)
    print(common.table(["T", "method", "", "ms per step", "ratio to TorchJD"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(*map(int, sys.argv[1:]))
