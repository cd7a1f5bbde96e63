"""Kinds of evidence: each file says what it is, how it is had and what it costs."""

import functools
import inspect
import pkgutil
from importlib import import_module

from polytape.contract import Method, iter_methods
from polytape.evidence.base import ComparedLoss, Kind, Measurement, Recorded

__all__ = [
    "ComparedLoss",
    "Kind",
    "Measurement",
    "Recorded",
    "all_kinds",
    "evidence_keys",
    "kinds_of",
]


@functools.cache
def all_kinds() -> dict[str, type[Kind]]:
    """Every kind by name, found by discovery: one more file in this folder needs no line here."""
    found: dict[str, type[Kind]] = {}
    for module in pkgutil.iter_modules(__path__):
        for item in vars(import_module(f"{__name__}.{module.name}")).values():
            if inspect.isclass(item) and issubclass(item, Kind) and item is not Kind:
                found[item.name] = item
    return found


@functools.cache
def evidence_keys() -> frozenset[str]:
    """The keys by which `Evidence` knows the values of all kinds."""
    return frozenset(kind.key for kind in all_kinds().values()) - {""}


def kinds_of(method: Method) -> tuple[Kind, ...]:
    """The kinds of evidence that a method reads, or those that it is made of.

    Raises `ValueError` for a name that no kind has.
    """
    methods = tuple(iter_methods(method))
    known = all_kinds()
    for each in methods:
        for name in each.evidence:
            if name not in known:
                raise ValueError(
                    f"{type(each).__name__} asks for the evidence {name!r}, which does not exist. "
                    f"Kinds of evidence: {', '.join(map(repr, known))}."
                )
    found = (kind.of(methods) for kind in known.values())
    return tuple(kind for kind in found if kind is not None)
