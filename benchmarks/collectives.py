"""What a compiled programme of XLA sends between devices, read from its text (JAX)."""

import collections
import re
from collections.abc import Mapping
from typing import Any

_LINE = re.compile(
    r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) "
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


def result_bytes(executable: Any) -> dict[str, int]:
    """{collective: bytes of what it results in on one device}, each place in the text once.

    Of a condition both branches count, and a loop's body once.
    """
    found: collections.Counter[str] = collections.Counter()
    for line in executable.as_text().splitlines():
        if match := _LINE.match(line):
            for _, bits, shape in _ARRAY.findall(match[1]):
                entries = 1
                for length in filter(None, shape.split(",")):
                    entries *= int(length)
                found[match[2]] += entries * int(bits) // 8
    return dict(found)


def sent_bytes(results: Mapping[str, int], devices: int) -> float:
    """Bytes that one of so many devices sends in a ring, for the bytes that result."""
    share = (devices - 1) / devices
    factors = {"all-reduce": 2 * share, "all-gather": share, "reduce-scatter": devices - 1}
    return sum(factors.get(kind, 1.0) * size for kind, size in results.items())


def temporaries(executable: Any) -> int:
    """Bytes of one device that hold neither arguments nor results."""
    return int(executable.memory_analysis().temp_size_in_bytes)
