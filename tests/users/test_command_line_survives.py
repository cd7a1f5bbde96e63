"""The command line loses no result: any encoding, full disks, closed pipes, slips of the hand."""

import io
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

from fresh import ROOT
from polytape import cli, compare
from polytape.diagnostics.records import Comparison
from polytape.problems import load
from polytape.reports import figures
from polytape.streams import Surviving

pytestmark = pytest.mark.engine
TOY = ("compare", "toy", "--methods", "sum", "--epochs", "1", "--seeds", "1", "--batch-size", "128")


def polytape(*arguments, stdout=subprocess.PIPE, **environment):
    """The command in a process of its own."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    backend = keras.backend.backend()
    # Whoever sets this wants to read TensorFlow's log, and gets it.
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", "from polytape.cli import main; main()", *map(str, arguments)],
        env={**inherited, "KERAS_BACKEND": backend, "PYTHONPATH": path, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


# --------------------------------------------------------------------------- what is shown


def test_compare_speaks_ascii(tmp_path):
    done = polytape(*TOY, "--out", tmp_path, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    assert "+ Sum seed 0" in shown
    assert "loss v" in shown
    assert {path.name for path in tmp_path.iterdir()} == {
        *("records.json", "table.md", "table.csv", "curves.png", "tradeoff.png", "report.html")
    }


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8"])
def test_every_encoding_takes_every_character(encoding):
    text = "✓ ✗ loss ↓ acc ↑ 1 ± 2 – … α ≤ ─ ● 数 é\n"
    raw = io.BytesIO()
    stream = Surviving(io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    stream.write(text)
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    if encoding == "utf-8":
        assert shown == text
    if encoding == "ascii":
        assert shown == "+ x loss v acc ^ 1 +- 2 - . ? <= - * ? e\n"


@pytest.mark.parametrize("arguments", [("--help",), ("compare", "--help"), ("methods",)])
def test_pages_under_cp1252_in_a_narrow_terminal(arguments):
    done = polytape(*arguments, PYTHONIOENCODING="cp1252", COLUMNS="20", TERM="dumb")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("cp1252").strip()


def test_a_narrow_terminal_loses_no_column(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    found = compare.compare(load("toy"), cli._resolve("sum"), seeds=1, epochs=1, batch_size=128)
    cli._show(found, cli.Keeping(tmp_path))
    shown = capsys.readouterr().out
    for column in ("method", "east", "north", "west", "gain", "conflict", "step"):
        assert column in shown, shown


# --------------------------------------------------------------------------- what is kept


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_are_written_when_the_screen_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        done = polytape(*TOY, "--out", tmp_path, stdout=full)
    assert done.returncode == 1
    assert (
        done.stderr.decode()
        .splitlines()[-1]
        .startswith("The output could not be written: [Errno 28]")
    )
    assert "Traceback" not in done.stderr.decode()
    assert Comparison.load(tmp_path / "records.json").runs[0].status == "finished"
    assert (tmp_path / "tradeoff.png").exists()


def test_a_reader_that_stops_reading_is_no_error():
    reads, writes = os.pipe()
    os.close(reads)
    done = polytape("methods", "upgrad", stdout=writes)
    os.close(writes)
    assert done.returncode == 1
    assert done.stderr == b""


def full(*_):
    raise OSError(28, "No space left on device")


def test_results_are_shown_when_nothing_can_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Comparison, "save", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(figures, "curves", full)
    monkeypatch.setattr(figures, "tradeoff", lambda *_: 1 / 0)
    done = run(*TOY, "--out", tmp_path)
    assert done.exit_code == 1
    assert "conflict" in done.stdout
    assert "Written" not in done.stdout
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("records.json", "table.md", "table.csv", "curves.png", "tradeoff.png", "report.html")
    ]
    assert lines[0] == (
        f"records.json could not be written to {tmp_path}: [Errno 28] No space left on device. "
        "Free space or allow writing there, or name another folder with --out."
    )
    assert "division by zero" in lines[-2]


def test_one_picture_that_fails_costs_no_other_file(tmp_path, monkeypatch):
    (tmp_path / "curves.png").mkdir()
    done = run(*TOY, "--out", tmp_path)
    assert done.exit_code == 1
    names = "records.json, table.md, table.csv, tradeoff.png, report.html"
    written = f"Written to {tmp_path}: {names}"
    assert written in done.stdout
    assert done.stderr.startswith(f"curves.png could not be written to {tmp_path}: [Errno 21]")
    assert done.stderr.count("\n") == 1


def test_a_save_that_failed_once_and_then_worked_is_no_failure(tmp_path, monkeypatch):
    save, calls = Comparison.save, []

    def fails_once(self, path):
        calls.append(path)
        if len(calls) == 1:
            full()
        save(self, path)

    monkeypatch.setattr(Comparison, "save", fails_once)
    done = run(*TOY, "--out", tmp_path)
    assert done.exit_code == 0
    assert done.stderr == ""
    assert (tmp_path / "records.json").exists()


# --------------------------------------------------------------------------- slips of the hand


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("compare", "toy", "--seeds", "-1"), "--seeds must be at least 1. Received: -1."),
        (("compare", "toy", "--seeds", "1000000000"), "--seeds must be at most 1,000."),
        (("compare", "toy", "--seeds", "9" * 40), "--seeds must be at most 1,000."),
        (("compare", "toy", "--epochs", "1000000000"), "--epochs must be at most 100,000."),
        (("compare", "toy", "--learning-rate", "inf"), "--learning-rate must be a positive"),
        (("compare", "nowhere.py:f"), "There is no file nowhere.py (looked in "),
        (("compare", "toys"), "Unknown problem: 'toys'. Did you mean 'toy'?"),
        (("methods", "nothing"), "Unknown method: 'nothing'."),
    ],
)
def test_one_line_that_names_the_slip(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--seeds", "--epochs", "--batch-size", "--learning-rate"])
def test_text_in_the_place_of_a_number(option):
    done = run("compare", "toy", option, "many")
    assert done.exit_code == 2
    assert f"Invalid value for '{option}': " in done.stderr


def test_folders_that_take_no_file_are_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("compare", "toy", "--out", tmp_path / "file" / "results")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"The results cannot be written to {tmp_path / 'file'}/results: ")
    assert done.stderr.endswith("Name another folder, as in --out results.\n")
    for bad in (tmp_path, tmp_path / "missing" / "methods.md"):
        done = run("methods", "--out", bad)
        assert done.exit_code == 2
        assert done.stderr.startswith("The page cannot be written: [Errno ")
        assert done.stderr.endswith("Name a file, as in --out methods.md.\n")
        assert done.stderr.count("\n") == 1


def test_modules_beside_the_file_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_a_problem.py").write_text("from polytape.problems.toy import toy\n")
    (tmp_path / "mine.py").write_text(
        "from beside_a_problem import toy\n\ndef f():\n    import beside_a_problem\n"
        "    return beside_a_problem.toy()\n"
    )
    assert load(f"{tmp_path}/mine.py:f").name == "toy"


def test_data_that_fail_are_blamed_on_the_problem(tmp_path):
    (tmp_path / "bad.py").write_text(
        "import dataclasses\nfrom polytape.problems import load\n"
        "def f():\n    return dataclasses.replace(load('toy'), data=lambda: {}['x'])\n"
    )
    done = run("compare", f"{tmp_path}/bad.py:f", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr == "Problem('toy'): `data()` failed with KeyError: 'x'\n"
