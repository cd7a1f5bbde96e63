"""`polytape explain file.py:function`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polytape.cli import app

PROGRAM = """
import keras
from keras import ops

def broken():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")], name="net")
    x = ops.ones((4, 3))
    losses = lambda: {"fine": ops.mean(model(x)), "cut": ops.mean(ops.sign(model(x)))}
    return losses, {"net": model}

def fine():
    losses, variables = broken()
    return (lambda: {"fine": losses()["fine"]}), variables

def nothing():
    pass
"""


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "train.py").write_text(PROGRAM)
    found = CliRunner().invoke(app, ["explain", *arguments])
    return found.exit_code, found.output


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_says_what_is_wrong(tmp_path: Path) -> None:
    code, text = run(tmp_path, "train.py:broken", "--out", "run")
    assert code == 1
    assert "'cut' x 'net': cut. `sign` is flat almost everywhere" in text
    record = json.loads((tmp_path / "run" / "explanation.json").read_text())
    assert [finding["operation"] for finding in record["findings"]] == ["sign"]
    assert "net/dense/kernel" in run(tmp_path, "train.py:broken", "--by", "variable")[1]


def test_says_that_nothing_is_wrong(tmp_path: Path) -> None:
    code, text = run(tmp_path, "train.py:fine")
    assert (code, "Nothing is wrong" in text) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train.py"], "Name a function of a file, as in file.py:function. Received: train.py. It"),
        (["train.py:brokn"], "train.py has no function 'brokn'. Did you mean broken?"),
        (["other.py:broken"], "There is no file other.py"),
        (["train.py:nothing"], "pt.explain takes a compiled pt.Model and a batch"),
        (["train.py:broken", "--by", "week"], "--by is network, layer or variable. Received: week"),
    ],
)
def test_refuses(tmp_path: Path, arguments: list[str], expected: str) -> None:
    code, text = run(tmp_path, *arguments)
    assert code == 2
    assert expected in " ".join(text.split())
