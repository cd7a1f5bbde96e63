"""Functions of tests run by several processes of one `torch.distributed` group, on loopback.

A function is named by its module in tests/, takes the number of its process, that of all of them
and keywords, and returns what can be pickled. Nothing waits for ever. Processes stay for the next
function, since starting them takes longer than most trainings; those of `together` do not.
"""

import atexit
import contextlib
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("tests/helpers", "tests/distribution", "tests/users", "src")


class Order(NamedTuple):
    """What is to be run."""

    module: str
    function: str
    given: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """What became of a process: what its function returned, or the error in its last words."""

    returned: Any
    error: str
    printed: str
    code: int | None  # None: it had to be killed


class Process:
    """One of a group, which runs one function after the other."""

    def __init__(self, folder: str, rank: int, count: int, group_seconds: float) -> None:
        path = os.pathsep.join(str(ROOT / each) for each in MODULES)
        env = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.said = Path(folder, f"{rank}.said")
        self._answers, own = os.pipe()
        settings = [str(Path(folder, "store")), rank, count, group_seconds, own]
        with self.said.open("wb") as said:
            self.running = subprocess.Popen(
                [sys.executable, str(Path(__file__)), *map(str, settings)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=[own],
            )
        os.close(own)
        self._reader = os.fdopen(self._answers, "rb")

    def send(self, order: Order) -> None:
        pickle.dump(tuple(order), self.running.stdin)
        self.running.stdin.flush()

    def answer(self, until: float) -> tuple[Any, str] | None:
        """What came of the order; None if nothing did."""
        ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
        with contextlib.suppress(EOFError):
            return pickle.load(self._reader) if ready else None
        return None

    def end(self, until: float) -> int | None:
        """Its exit status, once it has no more to do."""
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self.running.stdin.close()
            return self.running.wait(max(0.0, until - time.monotonic()))
        return None

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()
        self._reader.close()


_KEPT: dict[int, list[Process]] = {}  # by how many they are
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _let_go(count: int) -> None:
    for process in _KEPT.pop(count, ()):
        process.kill()


@atexit.register
def _let_all_go() -> None:
    for count in [*_KEPT]:
        _let_go(count)


def each(
    module: str, function: str, count: int = 2, *, seconds: float = 300.0, **given: Any
) -> list[Any]:
    """What the function returns in each of `count` processes; raises if one of them fails."""
    if count not in _KEPT:
        _FOLDERS.append(tempfile.TemporaryDirectory())
        _KEPT[count] = [Process(_FOLDERS[-1].name, n, count, 30.0) for n in range(count)]
    processes, until = _KEPT[count], time.monotonic() + seconds
    for process in processes:
        process.send(Order(module, function, given))
    answers = [process.answer(until) for process in processes]
    wrong = [
        f"process {rank} of {count}: {answer[1] if answer else processes[rank].said.read_text()}"
        for rank, answer in enumerate(answers)
        if answer is None or answer[1]
    ]
    if wrong:
        _let_go(count)
    assert not wrong, "\n".join(wrong)
    return [answer[0] for answer in answers if answer]


def together(
    module: str,
    function: str,
    count: int = 2,
    *,
    seconds: float = 100.0,
    group_seconds: float = 30.0,
    **given: Any,
) -> list[Ended]:
    """How `count` processes of their own end that run a function and fail, or do not come.

    group_seconds  after which a collective gives up that others do not join
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [Process(folder, rank, count, group_seconds) for rank in range(count)]
        found, until = [], time.monotonic() + seconds
        try:
            for process in processes:
                process.send(Order(module, function, given))
            for process in processes:
                returned, error = process.answer(until) or (None, "")
                found.append((returned, error, process))
            return [Ended(r, error, p.said.read_text(), p.end(until)) for r, error, p in found]
        finally:
            for process in processes:
                process.kill()


@contextlib.contextmanager
def group(store: str, rank: int, count: int, seconds: float) -> Iterator[None]:
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=seconds),
    )
    yield
    dist.destroy_process_group()


def _main(store: str, rank: int, count: int, seconds: float, answers: int) -> None:
    with os.fdopen(answers, "wb") as out, group(store, rank, count, seconds):
        while True:
            try:
                order = Order(*pickle.load(sys.stdin.buffer))
            except EOFError:
                return
            found: tuple[Any, str] = None, ""
            try:
                function = getattr(import_module(order.module), order.function)
                found = function(rank, count, **order.given), ""
            except BaseException:
                found = None, traceback.format_exc()
            pickle.dump(found, out)
            out.flush()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
