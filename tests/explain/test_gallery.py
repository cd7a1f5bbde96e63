"""Broken programs are explained: objective, network and cause, in the same words everywhere."""

import warnings
from pathlib import Path
from typing import get_args

import keras
import pytest

import polytape as pt
from broken import PROGRAMS
from polytape.explanation.finding import Kind

pytestmark = pytest.mark.engine
PAGE = Path(__file__).resolve().parents[2] / "docs" / "why-is-it-not-learning.md"


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_cause_is_named(name: str) -> None:
    program = PROGRAMS[name]
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pt.explain(*program.make())
    text = str(found)
    fitting = [
        finding
        for finding in found.findings
        if (finding.objective, finding.kind) == (program.objective, program.kind)
        and program.network in ("", finding.network)
    ]
    assert fitting, text
    finding = fitting[0]
    if program.operation:
        assert finding.operation == program.operation, text
    assert program.said.lower() in f"{finding.told} {finding.remedy}".lower(), text
    if program.line:
        assert "broken.py:" in finding.line, text
    assert finding.layer.endswith(program.layer), text
    assert finding.remedy, text
    assert finding.told in text


def test_the_page_has_every_kind() -> None:
    headings = {
        line.removeprefix("## ") for line in PAGE.read_text().splitlines() if line[:3] == "## "
    }
    assert set(get_args(Kind)) == headings - {"Symptoms"}
    assert {program.kind for program in PROGRAMS.values()} >= {
        kind for kind in headings if kind not in ("Symptoms", "unknown")
    }
