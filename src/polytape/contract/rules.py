"""Rules beside the fields of a method: what a hyper-parameter may be, and the words for it."""

import dataclasses
import functools
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from polytape.contract.checks import is_number, is_whole


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between `low` and `high`; an end named in `open` is excluded."""

    low: float = -np.inf
    high: float = np.inf
    open: str = ""  # "low", "high" or "low high"
    optional: bool = False

    def admits(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if not is_number(value):
            return False
        above = value > self.low if "low" in self.open else value >= self.low
        below = value < self.high if "high" in self.open else value <= self.high
        return bool(above and below)

    def inadmissible(self) -> Iterator[Any]:
        yield from ("0.5x", float("nan"))
        if np.isfinite(self.low):
            yield self.low if "low" in self.open else self.low - 1
        if np.isfinite(self.high):
            yield self.high if "high" in self.open else self.high + 1
        if not self.optional:
            yield None

    def __str__(self) -> str:
        left = "(" if "low" in self.open or np.isinf(self.low) else "["
        right = ")" if "high" in self.open or np.isinf(self.high) else "]"
        return f"a number in {left}{self.low:g}, {self.high:g}{right}{' or None' * self.optional}"


@dataclasses.dataclass(frozen=True)
class Integer(Range):
    """A whole number between `low` and `high`."""

    def admits(self, value: Any) -> bool:
        return (value is None or is_whole(value)) and super().admits(value)

    def inadmissible(self) -> Iterator[Any]:
        yield from super().inadmissible()
        yield self.low + 0.5 if np.isfinite(self.low) else 0.5

    def __str__(self) -> str:
        return super().__str__().replace("a number", "a whole number")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]

    def admits(self, value: Any) -> bool:
        return any(value is v or (type(value) is type(v) and value == v) for v in self.values)

    def inadmissible(self) -> Iterator[Any]:
        yield from ("no such choice", -1)

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(v) for v in self.values)


@dataclasses.dataclass(frozen=True)
class Preference:
    """One positive number per objective, or None for no preference; only proportions count."""

    def admits(self, value: Any) -> bool:
        if value is None:
            return True
        positive = Range(0.0, open="low high")
        return isinstance(value, tuple) and bool(value) and all(positive.admits(v) for v in value)

    def inadmissible(self) -> Iterator[Any]:
        yield from ((), (1.0, 0.0), (1.0, float("nan")), (float("inf"),), 0.5, "sum")

    def __str__(self) -> str:
        return "a tuple of positive numbers, one per objective, or None"


Rule = Range | OneOf | Preference
Scale = Annotated[str, OneOf(("sum", "mean", "paper"))]


@functools.cache
def rules_of(cls: type) -> dict[str, Rule]:
    """The rules of a class's fields, by field name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for name, hint in hints.items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Rule):
                found[name] = extra
    return found


def inadmissible_values(cls: type) -> Iterator[tuple[str, Any]]:
    """Pairs (field, value) that the rules of a method refuse: the tests try every one."""
    for name, rule in rules_of(cls).items():
        for value in rule.inadmissible():
            yield name, value
