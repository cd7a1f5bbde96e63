"""The listing of methods, and the page made from it."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import polytape as pt
from polytape.catalogue import all_methods, catalogue
from polytape.contract import Evidence, Method, Need, State, Tensor
from polytape.evidence import all_kinds
from polytape.reports.listing import Entry, entry, listing, size
from polytape.reports.methods import page, sections, specification

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "methods.md"


@dataclasses.dataclass(frozen=True)
class Weird(Method):
    """A sum | with a state.

    More words.
    """

    strength: float = 0.5

    needs: ClassVar[Need] = "losses"
    evidence: ClassVar[tuple[str, ...]] = ("losses_before_after",)

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        square = np.zeros((len(names), len(names)))
        return {"a": square, "b": square, "c": np.zeros(3 * len(names) - 1)}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return evidence.losses, state


@dataclasses.dataclass(frozen=True)
class Cubic(Weird):
    """A state that grows too fast."""

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return np.zeros(len(names) ** 3)


def found(name: str) -> Entry:
    return next(e for e in listing() if e.name == name)


def test_an_entry_says_what_the_class_says() -> None:
    weird = entry(Weird)
    assert (weird.summary, weird.needs, weird.cost) == ("A sum | with a state", "losses", "2 F + B")
    assert weird.state == "2 T² + 3 T – 1"
    assert weird.settings == (("strength", "0.5", ""),)
    assert "More words." in specification(weird)
    assert "A sum \\| with a state |" in page([weird])


def test_memory_and_turns_are_told() -> None:
    """Momentum ConFIG keeps a moment for each objective and differentiates one at a time."""
    assert found("MConFIG").state.startswith("T N + ")
    assert found("MConFIG").cost == "F + B, one objective in turn"


def test_a_state_that_is_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="The state of Cubic is no polynomial of degree 2"):
        size(Cubic())


def test_a_wrapper_costs_what_it_wraps() -> None:
    assert (found("Smoothed").needs, found("Smoothed").state) == ("inner", "inner + 2 T")
    assert found("Every").cost == "F + B, inner 1 in 10"
    assert (found("PerVariable").needs, found("PerVariable").cost) == ("gramian", "F + T B")
    assert size(pt.Smoothed(pt.DWA())) == "6 T + 1"


def test_every_method_has_its_place_and_a_summary() -> None:
    entries = listing()
    assert [e.name for e in entries] == list(catalogue())
    assert {e.name for e in entries if not e.stage} == set(all_methods())
    placed = [e.name for _, _, group in sections(entries) for e in group]
    assert sorted(placed) == sorted(catalogue())
    titled = [kind.title for kind in all_kinds().values() if kind.title]
    assert {title for title, *_ in sections(entries)} == {*titled, "Stages and wrappers"}
    assert all(e.summary for e in entries)


def test_the_page_is_up_to_date() -> None:
    remedy = "Make it again: polytape methods --out docs/methods.md"
    assert PAGE.read_text(encoding="utf-8") == page(listing()), remedy


def test_the_page_is_linked_and_its_links_lead_somewhere() -> None:
    assert "(docs/methods.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for e in listing():
        path = f"src/{e.module.replace('.', '/')}.py"
        assert f"(../{path})" in PAGE.read_text(encoding="utf-8")
        assert (ROOT / path).exists()
