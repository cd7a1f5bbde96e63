"""What a method refuses, and how it says so: rule and message come from the field itself."""

import dataclasses
import re
from typing import Any

import pytest

from polytape.catalogue import catalogue, resolve
from polytape.contract import Method, inadmissible_values


def _constructible(cls: type[Method], field: str) -> bool:
    others = (f for f in dataclasses.fields(cls) if f.name != field)
    return all(f.default is not dataclasses.MISSING for f in others)


CASES = [
    pytest.param(cls, field, value, id=f"{cls.__name__}-{field}-{value!r}")
    for cls in catalogue().values()
    for field, value in inadmissible_values(cls)
    if _constructible(cls, field)
]


@pytest.mark.parametrize(("cls", "field", "value"), CASES)
def test_refuses(cls: type[Method], field: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        cls(**{field: value})
    text = str(caught.value)
    assert text.startswith(f"{cls.__name__}({field}={value!r}): `{field}` must be ")
    assert f"Received: {value!r} of type {type(value).__name__}." in text


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("pcgrd", "pcgrad"), ("aligned", "alignedmtl"), ("DVA", "dwa")]
)
def test_unknown_name_offers_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"Unknown method: {wrong!r}. Did you mean")
    ) as c:
        resolve(wrong)
    assert f'"{nearest}"' in str(c.value)


@pytest.mark.parametrize("spelling", ["imtlg", "IMTL-G", "Aligned_MTL", "ConFIG", "grad drop"])
def test_any_spelling_is_found(spelling: str) -> None:
    wanted = re.sub("[^a-z]", "", spelling.lower())
    assert type(resolve(spelling)).__name__.lower() == wanted


def test_a_class_or_a_stranger_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Received the class PCGrad itself: add the parentheses"):
        resolve(catalogue()["PCGrad"])
    with pytest.raises(TypeError, match=r"Received: 3 of type int"):
        resolve(3)
