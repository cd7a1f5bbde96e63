"""How the variables of several optimizers lie in a file: part by part, under their names."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from polytape.contract.types import Array

RECORD = "parts"  # beside the variables, which have running numbers


class Layout(NamedTuple):
    """Whose variables follow each other, and what they belong to.

    counts  {part: number of its variables};  owners  for each variable of the model its part
    """

    counts: Mapping[str, int]
    owners: Sequence[str]

    @classmethod
    def read(cls, found: Mapping[str, Array]) -> "Layout | None":
        """That of a file; None if it is from before parts had names."""
        if RECORD not in found:
            return None
        return cls(**json.loads(found[RECORD].tobytes().decode()))

    def record(self) -> Array:
        """The same as an array for a file."""
        return np.frombuffer(json.dumps(self._asdict()).encode(), "uint8")

    def split(self, found: Mapping[str, Array]) -> dict[str, list[Array]]:
        """The arrays of a file by part."""
        numbers = iter(range(sum(self.counts.values())))
        return {
            part: [found[str(next(numbers))] for _ in range(count)]
            for part, count in self.counts.items()
        }

    def same(self, other: "Layout") -> bool:
        """Whether the same parts, in whatever order, have as many variables and own the same."""
        return self.counts == other.counts and list(self.owners) == list(other.owners)
