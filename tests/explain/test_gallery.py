"""Broken programs are explained: objective, network and cause, in the same words everywhere."""

import warnings

import pytest

import polytape as pt
from broken import PROGRAMS

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_cause_is_named(name: str) -> None:
    program = PROGRAMS[name]
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
