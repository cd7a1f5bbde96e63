"""What follows from the figures: who is compared with whom, and how they compare."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.peers.methods import METHODS
from benchmarks.peers.nets import NETS
from benchmarks.peers.runner import Found, Line

FAMILY = "TorchJD"  # whose fastest setting is 1


@dataclass(frozen=True)
class Case:
    """All lines of one net and one method; base is the one that counts as 1, if there is one."""

    net: str
    tasks: int
    method: str
    lines: list[Line]
    base: Line | None


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    low: float
    middle: float
    high: float


def cases(found: Found) -> list[Case]:
    """In the order of `nets.py` and `methods.py`."""
    measured = {(line.net, line.tasks, line.method) for line in found.lines}
    ordered = [(net.kind, net.tasks, method) for net in NETS for method in METHODS]
    return [_case(found, *key) for key in ordered if key in measured]


def _case(found: Found, net: str, tasks: int, method: str) -> Case:
    here = [
        line for line in found.lines if (line.net, line.tasks, line.method) == (net, tasks, method)
    ]
    known = [line for line in here if times(found, line) and not line.failed]
    base = fastest(found, [line for line in known if line.family == FAMILY])
    return Case(net, tasks, method, here, base)


def fastest(found: Found, lines: Iterable[Line]) -> Line | None:
    return min(lines, key=lambda line: statistics.median(times(found, line)), default=None)


def times(found: Found, line: Line) -> list[float]:
    """By the clock of the run."""
    return line.cpu if found.about["clock"] == "cpu" else line.wall


def spread(values: list[float]) -> Spread:
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(found: Found, case: Case, line: Line) -> Spread | None:
    """To the base, round by round."""
    if case.base is None or line.failed or not times(found, line):
        return None
    pairs = zip(times(found, line), times(found, case.base), strict=False)
    return spread([a / b for a, b in pairs])
