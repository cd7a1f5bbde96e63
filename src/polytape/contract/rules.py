"""Rules beside the fields of a method: what a hyper-parameter may be, and the words for it."""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from polytape.contract.checks import is_number, is_whole

_APART = 1e6  # the largest factor between two preferences
_TINY, _LARGEST = float(np.finfo("float32").tiny), float(np.finfo("float32").max)


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between `low` and `high`; an end named in `open` is excluded.

    An end that is not named is admitted, be it infinite. Methods compute in float32: an end of zero
    or infinity that is excluded excludes what float32 would round to it.
    """

    low: float = -np.inf
    high: float = np.inf
    open: str = ""  # "low", "high" or "low high"
    optional: bool = False

    def admits(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if not is_number(value):
            return False
        number: float = value  # type: ignore[assignment]
        if abs(number) > _LARGEST:
            number = np.inf if number > 0 else -np.inf
        if abs(number) < _TINY:
            number = 0.0
        above = number > self.low if "low" in self.open else number >= self.low
        below = number < self.high if "high" in self.open else number <= self.high
        return bool(above and below)

    def inadmissible(self) -> Iterator[Any]:
        yield from ("0.5x", float("nan"))
        if "low" in self.open:
            yield self.low
        elif np.isfinite(self.low):
            yield self.low - 1
        if "high" in self.open:
            yield from (self.high, 1e39) if np.isinf(self.high) else (self.high,)
        elif np.isfinite(self.high):
            yield self.high + 1
        if "low" in self.open and self.low == 0:
            yield 1e-39
        if not self.optional:
            yield None

    def __str__(self) -> str:
        left = "(" if "low" in self.open else "["
        right = ")" if "high" in self.open else "]"
        rounds = (left == "(" and self.low == 0) or (right == ")" and math.isinf(self.high))
        return (
            f"a number in {left}{_shown(self.low)}, {_shown(self.high)}{right}"
            f"{' in float32' * rounds}"
            f"{' or None' * self.optional}"
        )


def _shown(bound: float) -> str:
    """A bound in full if it is whole."""
    whole = abs(bound) < 2**53 and float(bound).is_integer()
    return str(int(bound)) if whole else f"{bound:g}"


@dataclasses.dataclass(frozen=True)
class Integer(Range):
    """A whole number between `low` and `high`, no larger than int32 holds."""

    low: float = -(2**31)
    high: float = 2**31 - 1

    def admits(self, value: Any) -> bool:
        return (value is None or is_whole(value)) and super().admits(value)

    def inadmissible(self) -> Iterator[Any]:
        yield from super().inadmissible()
        yield self.low + 0.5

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
        if not isinstance(value, tuple) or not value or not all(map(positive.admits, value)):
            return False
        return max(value) <= _APART * min(value)

    def inadmissible(self) -> Iterator[Any]:
        yield from ((), (1.0, 0.0), (1.0, float("nan")), (float("inf"),), 0.5, "sum")
        yield (1e-4, 1e4)

    def __str__(self) -> str:
        return f"a tuple of positive numbers, one per objective, up to {_APART:g} apart, or None"


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
