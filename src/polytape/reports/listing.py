"""The catalogue as records: what the command line and the page of methods are made of."""

import dataclasses
import inspect
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from polytape.catalogue.discovery import all_methods, catalogue
from polytape.catalogue.ticks import TICKS
from polytape.contract import Method
from polytape.contract.rules import rules_of
from polytape.evidence import all_kinds, kinds_of

INNER = "inner"  # of a wrapper: what the methods inside it say


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method or stage.

    needs          the kind of evidence that says what it costs: "losses", "gramian", "rows",
                   "half_batches", "sample_traces"; or "inner" for a wrapper
    title, passes  of the methods that read it, in words; "" for a wrapper
    cost           of a step: F forward, B backward passes, T objectives
    state          numbers kept from step to step, for T objectives and a network of N numbers: "–",
                   "T", "T² + 1", "2 T N"
    native_scale   what the published weights of equal gradients add up to, "sum" or "mean"; or "–"
    passed         the laws that it passed when it was tried, promised or not
    settings       (field, default, rule); the default is "" where there is none
    specification  the whole docstring
    """

    name: str
    module: str
    stage: bool
    summary: str
    needs: str
    title: str
    passes: str
    cost: str
    state: str
    native_scale: str
    passed: tuple[str, ...]
    reference: str
    settings: tuple[tuple[str, str, str], ...]
    specification: str


def listing() -> list[Entry]:
    """Every method and stage, by name."""
    methods = all_methods()
    return [entry(cls, stage=name not in methods) for name, cls in catalogue().items()]


def entry(cls: type[Method], stage: bool = False, passed: tuple[str, ...] | None = None) -> Entry:
    """What a class says of itself, read off it and off what it makes.

    passed  the laws that it passed; None: those of the record
    """
    needs, cost, state = _measured(cls)
    kind = None if stage else all_kinds().get(needs)
    specification = inspect.getdoc(cls) or ""
    return Entry(
        name=cls.__name__,
        module=cls.__module__,
        stage=stage,
        summary=specification.partition("\n\n")[0].replace("\n", " ").rstrip("."),
        needs=needs,
        title=kind.title if kind else "",
        passes=kind.passes if kind else "",
        cost=cost,
        state=state,
        native_scale=cls.native_scale or "–",
        passed=TICKS.get(cls.__name__, ()) if passed is None else passed,
        reference=cls.reference or "–",
        settings=tuple(_settings(cls)),
        specification=specification,
    )


def _measured(cls: type[Method]) -> tuple[str, str, str]:
    """Needs, cost and size of the state."""
    catalogued = catalogue()
    try:
        method = cls()
    except (TypeError, ValueError):  # it wraps others: tried around a cheap one and a dear one
        cheap, dear = (cls(catalogued[name]()) for name in ("Sum", "MGDA"))  # type: ignore[call-arg]
        needs = INNER if cheap.needs != dear.needs else cheap.needs
        own = size(cheap)
        state = INNER if own == "–" else f"{INNER} + {own}"
        cheapest = all_kinds()["losses"].cost
        cost = INNER if dear.period == 1 else f"{cheapest}, {INNER} 1 in {dear.period}"
        return needs, cost if needs == INNER else all_kinds()[needs].cost, state
    # What a method reads beyond losses and Gramian comes last, and tells more.
    kinds = sorted(kinds_of(method), key=lambda kind: kind.name in method.evidence)
    section = [kind.name for kind in kinds if kind.title][-1]
    cost = [kind.cost for kind in kinds if kind.cost][-1]
    kept = len(method.memory or ())
    memory = f"{'' if kept == 1 else f'{kept} '}T N" if kept else ""
    state = " + ".join(filter(None, (memory, size(method).strip("–")))) or "–"
    return section, cost, state


def size(method: Method) -> str:
    """How many numbers its state holds for T objectives, as a polynomial in T.

    >>> import polytape as pt
    >>> size(pt.Sum()), size(pt.Smoothed(pt.Sum()))
    ('–', '2 T')
    """
    counts = {count: _numbers(method, count) for count in range(2, 7)}
    two, three, four = counts[2], counts[3], counts[4]
    square = Fraction(four - 2 * three + two, 2)
    slope = three - two - 5 * square
    rest = two - 4 * square - 2 * slope
    if any(square * t * t + slope * t + rest != found for t, found in counts.items()):
        raise ValueError(
            f"The state of {type(method).__name__} is no polynomial of degree 2 in the number of "
            f"objectives. Received sizes: {counts}."
        )
    text = ""
    for factor, unit in ((square, "T²"), (slope, "T"), (rest, "")):
        if factor:
            number = "" if abs(factor) == 1 and unit else str(abs(factor))
            sign = ("–" if factor < 0 else "") if not text else " – " if factor < 0 else " + "
            text += sign + " ".join(filter(None, (number, unit)))
    return text or "–"


def _numbers(method: Method, count: int) -> int:
    state = method.init(tuple(f"objective_{index}" for index in range(count)))
    return sum(int(np.size(leaf)) for leaf in keras.tree.flatten(state))


def _settings(cls: type[Method]) -> Any:
    rules = rules_of(cls)
    for field in dataclasses.fields(cls):
        default = "" if field.default is dataclasses.MISSING else repr(field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = repr(field.default_factory())
        yield field.name, default, str(rules.get(field.name, ""))
