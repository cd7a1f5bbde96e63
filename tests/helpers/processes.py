"""Functions of tests run by several processes of one `torch.distributed` group, on loopback.

A function is named by its module in tests/, takes the number of its process, that of all of them
and keywords, and returns what can be pickled. Nothing waits for ever.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("tests/helpers", "tests/distribution", "tests/users", "src")


@dataclass(frozen=True)
class Ended:
    """What became of a process: what its function returned, or the error in its last words."""

    returned: Any
    error: str
    printed: str
    code: int | None  # None: it had to be killed


def each(module: str, function: str, count: int = 2, **given: Any) -> list[Any]:
    """What the function returns in each of `count` processes; raises if one of them fails."""
    ended = together(module, function, count, **given)
    for rank, one in enumerate(ended):
        assert one.code == 0, f"process {rank} of {count}: {one.error or one.printed}"
    return [one.returned for one in ended]


def together(
    module: str,
    function: str,
    count: int = 2,
    *,
    seconds: float = 100.0,
    group_seconds: float = 30.0,
    **given: Any,
) -> list[Ended]:
    """How `count` processes end that run the same function in one group.

    group_seconds  after which a collective gives up that others do not join
    """
    with tempfile.TemporaryDirectory() as folder:
        order = [module, function, given, str(Path(folder, "store")), count, group_seconds]
        path = os.pathsep.join([*(str(ROOT / each) for each in MODULES)])
        env = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        running = []
        for rank in range(count):
            place = Path(folder, str(rank))
            place.with_suffix(".order").write_bytes(pickle.dumps([*order, rank]))
            said = place.with_suffix(".said").open("w")
            command = [sys.executable, str(Path(__file__)), str(place)]
            running.append(
                subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT)
            )
        try:
            return [_ended(one, Path(folder, str(n)), seconds) for n, one in enumerate(running)]
        finally:
            for one in running:
                one.kill()
                one.wait()


def _ended(process: "subprocess.Popen[bytes]", place: Path, seconds: float) -> Ended:
    code: int | None = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(seconds)
    found = place.with_suffix(".found")
    returned, error = pickle.loads(found.read_bytes()) if found.exists() else (None, "")
    return Ended(returned, error, place.with_suffix(".said").read_text()[-4000:], code)


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


def _main(place: Path) -> None:
    order = pickle.loads(place.with_suffix(".order").read_bytes())
    module, function, given, store, count, seconds, rank = order
    found: tuple[Any, str] = None, ""
    try:
        with group(store, rank, count, seconds):
            found = getattr(import_module(module), function)(rank, count, **given), ""
    except BaseException:
        found = None, traceback.format_exc()
        raise
    finally:
        place.with_suffix(".found").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
