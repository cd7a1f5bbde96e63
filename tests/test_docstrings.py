"""Public docstrings are in Google style, and document what the signatures have and nothing else."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import polytape as pt

TITLES = ("Args", "Attributes", "Returns", "Raises", "Example")
HOMES = ("polytape.testing", "polytape.diagnostics.records")
SPECIAL = ("__call__",)


def public() -> Iterator[tuple[str, Any]]:
    """(name, class or function) of all that users are meant to take."""
    for name in dir(pt):
        item = getattr(pt, name)
        if inspect.ismodule(item):
            yield from ((f"{name}.{each}", getattr(item, each)) for each in item.__all__)
        else:
            yield name, item
    for home in HOMES:
        for name, item in vars(importlib.import_module(home)).items():
            if callable(item) and not name.startswith("_") and _ours(item):
                yield f"{home}.{name}", item


def _ours(item: Any) -> bool:
    return str(getattr(item, "__module__", "")).startswith("polytape")


def methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(name, function) of the public methods that a class of ours documents itself."""
    for base in cls.__mro__:
        for name, item in vars(base).items() if _ours(base) else ():
            function = getattr(item, "__func__", item)
            known = inspect.isfunction(function) and function.__doc__ and _ours(function)
            if known and (not name.startswith("_") or name in SPECIAL):
                yield name, function


def documented() -> dict[str, Any]:
    found = dict(public())
    for item in list(found.values()):
        if inspect.isclass(item):
            for name, function in methods(item):
                found[function.__qualname__ if "." in function.__qualname__ else name] = function
    return found


FOUND = documented()


class Parsed:
    """The sections of a docstring: {title: text}; arguments and errors by name."""

    def __init__(self, text: str) -> None:
        parts = re.split(rf"^({'|'.join(TITLES)}):$", text, flags=re.MULTILINE)
        self.prose, self.titles = parts[0], parts[1::2]
        self.sections = dict(zip(self.titles, parts[2::2], strict=True))

    def entries(self, title: str) -> dict[str, str]:
        """{name: text} of a section whose entries have names."""
        found: dict[str, str] = {}
        name = ""
        for line in self.sections.get(title, "").splitlines():
            if match := re.fullmatch(r"    (\*{0,2}\w+): (.+)", line):
                name = match[1]
                assert name not in found, f"{name} twice"
                found[name] = match[2]
            elif line:
                assert line.startswith("        "), (
                    f"neither an entry nor the rest of one: {line!r}"
                )
                assert name, f"before any entry: {line!r}"
                found[name] += " " + line.strip()
        return found

    @property
    def arguments(self) -> dict[str, str]:
        return self.entries("Args") | self.entries("Attributes")


def arguments_of(item: Any) -> set[str]:
    """Names as a docstring has them, without `self`."""
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(item).parameters.values()
    names = [p for p in parameters if p.name not in ("self", "cls")]
    return {f"{marks.get(p.kind, '')}{p.name}" for p in names}


def parsed(item: Any) -> Parsed:
    """A docstring; of a class with what its constructor adds."""
    text = inspect.cleandoc(item.__doc__)
    return Parsed(text)


@pytest.mark.parametrize("name", FOUND)
def test_is_in_google_style(name: str) -> None:
    text = inspect.getdoc(FOUND[name])
    assert text, "no docstring"
    found = Parsed(text)
    assert found.titles == [title for title in TITLES if title in found.titles], "order of sections"
    for title in ("Args", "Attributes", "Raises"):
        assert title not in found.sections or found.entries(title)
    if "Example" not in found.sections:
        assert ">>>" not in text, "examples go below `Example:`"
    assert not re.search(r"^Raises `|^\w+  +\S", found.prose, re.MULTILINE), "of the old style"
    assert len(text.splitlines()[0]) <= 100
    assert text.splitlines()[0].endswith((".", "?"))


@pytest.mark.parametrize("name", FOUND)
def test_documents_the_arguments_of_its_signature(name: str) -> None:
    item = FOUND[name]
    known = parsed(item).arguments
    if inspect.isclass(item):
        if own := vars(item).get("__init__"):
            known = {**known, **Parsed(inspect.cleandoc(own.__doc__ or "")).arguments}
        if "Attributes" in parsed(item).sections:  # what users are given, not what they make
            assert set(known) <= set(dir(item)) | set(item.__annotations__) | {
                "losses",
                "connectivity",
            }
            assert set(known) >= set(item.__annotations__)
            return
    assert set(known) == arguments_of(item)


@pytest.mark.parametrize("name", [n for n, item in FOUND.items() if not inspect.isclass(item)])
def test_says_what_it_returns(name: str) -> None:
    item = FOUND[name]
    returns = inspect.signature(item).return_annotation
    assert ("Returns" in parsed(item).sections) == (returns not in (None, "None"))
