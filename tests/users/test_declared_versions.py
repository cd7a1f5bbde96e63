"""What pyproject.toml promises is what is installed and tested."""

import importlib.metadata
import re
import tomllib

import keras
import pytest

from fresh import ROOT, fresh
from small import LOSSES, data, model

PINS = dict(
    line.split("==")
    for line in (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    if "==" in line
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def numbers(version: str) -> list[int]:
    """Of a version, without zeros at the end: 3.12 and 3.12.0 are the same."""
    found = [int(part) for part in re.match(r"[\d.]+", version)[0].strip(".").split(".")]
    while found and not found[-1]:
        found.pop()
    return found


def declared() -> dict[str, str]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["tensorflow"], *extras["jax"], *extras["torch"]]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)


def test_the_lowest_versions_that_are_tested_are_those_declared() -> None:
    found = declared()
    assert found.keys() == PINS.keys()
    assert {name: numbers(v) for name, v in found.items()} == {
        name: numbers(v) for name, v in PINS.items()
    }


def test_ci_installs_that_torch() -> None:
    steps = (ROOT / ".ci" / "run").read_text()
    assert f"pip install --quiet torch=={PINS['torch']}" in steps
    assert "python3 tests/lowest.py" in steps


@pytest.mark.parametrize("name", sorted(PINS))
def test_nothing_older_than_declared_is_installed_here(name: str) -> None:
    try:
        here = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        assert name != keras.backend.backend(), "the backend in use has a version"
        return
    assert numbers(here) >= numbers(PINS[name])


@pytest.mark.engine
def test_two_steps_and_the_methods_with_the_framework_that_is_there() -> None:
    """In an environment with one framework it is the smoke test; `tests/lowest.py` makes two."""
    x, y = data(8)
    found = model()
    found.compile("sgd", LOSSES, combine="upgrad")
    history = found.fit(x, y, batch_size=4, epochs=1, verbose=0).history
    assert set(history) >= {"loss", "a_loss", "b_loss", "c_loss"}
    assert "pt.UPGrad" in fresh("from polytape.cli import app; app(['methods', 'upgrad'])")
