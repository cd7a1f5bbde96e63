"""What a compiled programme of XLA sends between devices, read from its text (JAX)."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_LINE = re.compile(
    r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) "
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLS = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


class Collectives(NamedTuple):
    """Of one kind: how many there are, and the bytes of what they result in on one device."""

    count: int = 0
    size: int = 0

    def plus(self, other: "Collectives") -> "Collectives":
        return Collectives(self.count + other.count, self.size + other.size)


Found = dict[str, Collectives]


def collectives(executable: Any, choose: Callable[..., Found] = max) -> Found:
    """{kind: those of a compiled programme}; a loop's body counts once.

    choose  of what the branches of a condition send one, by `max` or `min` of the bytes
    """
    own: dict[str, Found] = {}
    called: dict[str, list[str]] = {}
    branches: dict[str, list[list[str]]] = {}
    name = first = ""
    for line in executable.as_text().splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            first = name if head[1] else first
            own[name], called[name], branches[name] = {}, [], []
        elif name:
            if match := _LINE.match(line):
                one = Collectives(1, _bytes(match[1]))
                own[name][match[2]] = own[name].get(match[2], Collectives()).plus(one)
            if found := _BRANCHES.findall(line):
                branches[name].append(re.findall(r"[\w.\-]+", " ".join(map("".join, found))))
            else:
                called[name] += _CALLS.findall(line)

    def total(name: str) -> Found:
        parts = [own[name], *map(total, called[name])]
        parts += [choose(map(total, each), key=_size) for each in branches[name]]
        merged: Found = {}
        for part in parts:
            for kind, each in part.items():
                merged[kind] = merged.get(kind, Collectives()).plus(each)
        return merged

    return total(first)


def _size(found: Found) -> int:
    return sum(each.size for each in found.values())


def _bytes(shapes: str) -> int:
    total = 0
    for _, bits, shape in _ARRAY.findall(shapes):
        total += math.prod(map(int, filter(None, shape.split(",")))) * int(bits) // 8
    return total


def sent_bytes(found: Mapping[str, Collectives], devices: int) -> float:
    """Bytes that one of so many devices sends in a ring."""
    share = (devices - 1) / devices
    factors = {"all-reduce": 2 * share, "all-gather": share, "reduce-scatter": devices - 1}
    return sum(factors.get(kind, 1.0) * each.size for kind, each in found.items())


def temporaries(executable: Any) -> int:
    """Bytes of one device that hold neither arguments nor results."""
    return int(executable.memory_analysis().temp_size_in_bytes)
