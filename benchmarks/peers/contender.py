"""What a contender is. Each file in `contenders/` lists its own in PEERS; one more, one more file.

Such a file imports its frameworks in the functions that need them: the list is read where they
are not installed.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import Spent
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Array, Net
from benchmarks.processes import installed

Way = Callable[[int], Spent]  # makes so many steps, waits for them, returns what they took


@dataclass
class Training:
    """A net in training by one method.

    ways  how steps can be made, by name;  read  the weights, in the order and shapes of `nets.py`
    restore  brings back the first weights, and sets the learning rate
    epochs  {way: another}: an epoch by the first has as many steps as a turn by the other
    """

    ways: dict[str, Way]
    read: Callable[[], list[Array]]
    restore: Callable[[float], None]
    epochs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """One contender, which has a process of its own.

    name  in tables;  framework  whose device and memory are read;  needs  what must be importable
    pip  the line that installs it;  methods  those it has
    make  the training of a net by one of them, at a learning rate
    family  whose settings its ways are, where the fastest of them all counts
    differs  {method: why its update is another one}
    """

    name: str
    framework: str
    needs: tuple[str, ...]
    pip: str
    methods: tuple[str, ...]
    make: Callable[[Net, str, float, Machine], Training]
    family: str = ""
    differs: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        return [package for package in self.needs if not installed(package)]


def all_peers() -> list[Peer]:
    """Those of every file in `contenders/`, in the order of its files."""
    from benchmarks.peers import contenders

    found = sorted(module.name for module in pkgutil.iter_modules(contenders.__path__))
    files = [importlib.import_module(f"{contenders.__name__}.{name}") for name in found]
    return [peer for file in files for peer in file.PEERS]


def clocked(step: Callable[[], Any], machine: Machine) -> Way:
    """Steps one after the other."""

    def run(count: int) -> Spent:
        machine.wait()
        start = Spent.now()
        for _ in range(count):
            step()
        machine.wait()
        return Spent.now().since(start)

    return run
