"""A comparison that was stopped, by Ctrl-C or by force, loses no run and goes on where it stood."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

from fresh import ROOT
from made_up import made_up
from polytape import cli, compare
from polytape.diagnostics.records import Comparison
from polytape.interrupts import Interrupts
from polytape.reports import tables

pytestmark = pytest.mark.engine

PLAN = ("toy", "--methods", "sum,upgrad", "--epochs", "3", "--seeds", "3")
COMMAND = "from polytape.cli import main; main()"
MINE = """
import dataclasses
from polytape.problems import load

def mine():
    return dataclasses.replace(load("toy"), name="mine", objectives={objectives})
"""


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def numbers(found):
    """What a run came to, without what depends on the clock."""
    timed = ("step_seconds", "seconds")
    return [{k: v for k, v in vars(made).items() if k not in timed} for made in found.runs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a comparison that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = run("compare", *PLAN, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def stopped(whole, tmp_path):
    """The folder of one of which two runs of six are there."""
    found = Comparison.load(whole / "records.json")
    found.runs, found.interrupted = found.runs[:2], True
    found.save(tmp_path / "records.json")
    return tmp_path


def edit(folder, **fields):
    path = folder / "records.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# --------------------------------------------------------------------------- processes


def killed(folder, how):
    """Start the comparison in a process of its own, and stop it when it has made a run or two."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "compare", *PLAN, "--out", str(folder)],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    records = folder / "records.json"
    until = time.monotonic() + 120
    while not records.exists() or not Comparison.load(records).runs:
        assert process.poll() is None, "the comparison ended by itself"
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(how)
    shown = process.communicate(timeout=60)[0]
    return process.returncode, shown


def test_a_killed_comparison_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, whole):
    status, _ = killed(tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    before = Comparison.load(tmp_path / "records.json")
    assert 0 < len(before.runs) < 6
    done = run("compare", "--resume", tmp_path)
    assert done.exit_code == 0, done.output
    assert f"{len(before.runs)} of 6 runs are there already." in done.output
    after = Comparison.load(tmp_path / "records.json")
    assert after.runs[: len(before.runs)] == before.runs
    assert numbers(after) == numbers(Comparison.load(whole / "records.json"))
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in whole.iterdir()}


def test_ctrl_c_says_how_to_go_on(tmp_path, whole):
    status, shown = killed(tmp_path, signal.SIGINT)
    assert status == 130
    assert f"Go on with: polytape compare --resume {tmp_path}" in shown
    assert Comparison.load(tmp_path / "records.json").interrupted
    assert (tmp_path / "table.md").exists()
    assert run("compare", "--resume", tmp_path).exit_code == 0
    after = Comparison.load(tmp_path / "records.json")
    assert not after.interrupted
    assert numbers(after) == numbers(Comparison.load(whole / "records.json"))


class Pressed:
    """In a destructor, whose exceptions Python throws away, as it does a garbage collector's."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_counts_where_python_throws_it_away(whole, monkeypatch, tmp_path):
    train = compare._Training._fit

    def pressed(self, method, seed, record):
        Pressed()
        train(self, method, seed, record)

    monkeypatch.setattr(compare._Training, "_fit", pressed)
    done = run("compare", *PLAN, "--out", tmp_path)
    assert done.exit_code == 130
    assert not Comparison.load(tmp_path / "records.json").runs[1:]


def test_ctrl_c_waits_for_what_must_not_be_done_by_half():
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012
        with interrupts.put_off():
            signal.raise_signal(signal.SIGINT)
            steps.append("saved")
        steps.append("went on")
    assert steps == ["saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


WRITER = """
import sys
sys.path.insert(0, {helpers!r})
from made_up import made_up
found = made_up(seeds=20, epochs=50)
print("ready", flush=True)
while True:
    found.save(sys.argv[1])
"""


def test_a_record_is_whole_whenever_the_writer_dies(tmp_path):
    path = tmp_path / "records.json"
    expected = made_up(seeds=20, epochs=50)
    for delay in (0.0, 0.003, 0.011, 0.02, 0.031):
        code = WRITER.format(helpers=str(Path(__file__).resolve().parents[1] / "helpers"))
        process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert Comparison.load(path) == expected


# --------------------------------------------------------------------------- what is done again


def test_only_what_is_missing_or_failed_is_run(stopped, monkeypatch):
    found = Comparison.load(stopped / "records.json")
    found.runs[0] = dataclasses.replace(found.runs[0], status="diverged")
    found.runs[1] = dataclasses.replace(found.runs[1], status="failed", history={})
    found.save(stopped / "records.json")
    trained = []
    train = compare._Training._fit

    def counted(self, method, seed, record):
        trained.append((type(method).__name__, seed))
        train(self, method, seed, record)

    monkeypatch.setattr(compare._Training, "_fit", counted)
    assert run("compare", "--resume", stopped).exit_code == 0
    assert trained == [("UPGrad", 0), ("Sum", 1), ("UPGrad", 1), ("Sum", 2), ("UPGrad", 2)]
    after = Comparison.load(stopped / "records.json")
    assert [(made.method, made.seed) for made in after.runs] == after.planned
    assert after.runs[0].status == "diverged"
    assert after.runs[1].status == "finished"


def test_a_failed_run_is_kept_until_it_is_made_again(stopped, monkeypatch):
    found = Comparison.load(stopped / "records.json")
    found.runs[1] = dataclasses.replace(found.runs[1], status="failed", reason="out of memory")
    found.save(stopped / "records.json")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare._Training, "_fit", interrupted)
    assert run("compare", "--resume", stopped).exit_code == 130
    assert Comparison.load(stopped / "records.json").runs[1].reason == "out of memory"


def test_what_is_finished_is_shown_again(whole, monkeypatch):
    before = (whole / "records.json").read_bytes()
    monkeypatch.setattr(compare._Training, "_fit", lambda *_: 1 / 0)
    done = run("compare", "--resume", whole)
    assert done.exit_code == 0
    assert "6 of 6 runs are there already." in done.output
    assert (whole / "records.json").read_bytes() == before


def test_methods_come_back_with_their_settings(tmp_path):
    import polytape as pt
    from polytape import resuming
    from polytape.problems import load

    chosen = {"mild": pt.CAGrad(c=0.1), "in a row": pt.Chain(pt.Normalize(), pt.EPO((1.0, 2.0)))}
    found = compare.compare(load("toy"), chosen, seeds=0, epochs=1)
    found.save(tmp_path / "records.json")
    assert resuming.methods_of(resuming.planned(tmp_path)) == chosen


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["multidigits"], "PROBLEM contradicts the plan in {}: received multidigits, planned is t"),
        (["--methods", "sum,mgda"], "--methods contradicts the plan in {}: received MGDA,Sum, pla"),
        (["--seeds", "2"], "--seeds contradicts the plan in {}: received 2, planned is 3. Leave i"),
        (["--epochs", "8"], "--epochs contradicts the plan in {}: received 8, planned is 3."),
        (["--batch-size", "8"], "--batch-size contradicts the plan in {}: received 8, planned i"),
        (["--learning-rate", "1"], "--learning-rate contradicts the plan in {}: received 1.0, pla"),
        (["--out", "other"], "--out contradicts the plan in {}: received "),
    ],
)
def test_words_that_contradict_the_plan(stopped, words, text):
    before = (stopped / "records.json").read_bytes()
    done = run("compare", *words, "--resume", stopped)
    assert done.exit_code == 2
    assert done.stderr.startswith(text.format(stopped))
    assert done.stderr.count("\n") == 1
    assert (stopped / "records.json").read_bytes() == before


def test_settings_that_contradict_the_plan(stopped):
    settings = json.loads((stopped / "records.json").read_text())["settings"]
    settings["UPGrad"]["config"]["regularization"] = 0.5
    edit(stopped, settings=settings)
    done = run("compare", "--methods", "upgrad,sum", "--resume", stopped)
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"--methods UPGrad contradicts the plan in {stopped}: received {{"
    )


def test_words_that_say_the_same_are_no_contradiction(whole):
    words = (*PLAN, "--batch-size", 64, "--learning-rate", 0.05, "--out", whole)
    assert run("compare", *words, "--resume", whole).exit_code == 0


def test_another_backend_or_version_is_refused(stopped):
    here = json.loads((stopped / "records.json").read_text())["environment"]
    backend = keras.backend.backend()
    edit(stopped, environment={**here, "backend": "other"})
    done = run("compare", "--resume", stopped)
    assert done.exit_code == 2
    assert done.stderr == (
        f"The comparison in {stopped} was begun with backend other; here is backend {backend}. Its "
        "runs would not be comparable. Set KERAS_BACKEND=other, or begin another comparison in a "
        "new folder with --out.\n"
    )
    for name in ("polytape", "keras", backend):
        edit(stopped, environment={**here, name: "0.0.1"})
        done = run("compare", "--resume", stopped)
        assert done.exit_code == 2
        assert f"was begun with {name} 0.0.1; here is {name} {here[name]}. " in done.stderr
        assert "Install what it was begun with, or begin another" in done.stderr


def test_what_is_harmless_is_told(whole, tmp_path):
    (tmp_path / "records.json").write_bytes((whole / "records.json").read_bytes())
    here = json.loads((tmp_path / "records.json").read_text())["environment"]
    edit(tmp_path, environment={**here, "numpy": "1.0"})
    done = run("compare", "--resume", tmp_path)
    assert done.exit_code == 0
    told = f"Begun with numpy 1.0, resumed with {here['numpy']}: the last digits may differ.\n"
    assert done.stderr == told


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_folder_without_a_record(tmp_path, text):
    if text is not None:
        (tmp_path / "records.json").write_text(text)
    done = run("compare", "--resume", tmp_path)
    assert done.exit_code == 2
    expected = "There is nothing to resume in " if text is None else f"{tmp_path}/records.json is n"
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


def test_a_new_comparison_does_not_destroy_one_that_was_stopped(stopped):
    before = (stopped / "records.json").read_bytes()
    done = run("compare", *PLAN, "--out", stopped)
    assert done.exit_code == 2
    assert done.stderr == (
        f"{stopped} holds a comparison that was stopped, with 2 of 6 runs made. Go on with it: "
        f"polytape compare --resume {stopped}; or name another folder, as in --out results; or "
        "delete it.\n"
    )
    assert (stopped / "records.json").read_bytes() == before


def test_a_new_comparison_sets_a_whole_one_aside(whole, tmp_path):
    (tmp_path / "records.json").write_bytes((whole / "records.json").read_bytes())
    done = run("compare", "toy", "--methods", "sum", "--epochs", 1, "--seeds", 1, "--out", tmp_path)
    assert done.exit_code == 0
    assert Comparison.load(tmp_path / "records.json").epochs == 1
    assert Comparison.load(tmp_path / "records.previous.json").epochs == 3


# --------------------------------------------------------------------------- problems of one's own


def test_a_problem_of_ones_own_is_found_from_anywhere(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(MINE.format(objectives=("east", "west", "north")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    words = ("--methods", "sum", "--epochs", 1, "--seeds", 1, "--out", out)
    assert run("compare", "mine.py:mine", *words).exit_code == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = run("compare", "--resume", out)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    file.write_text(file.read_text() + "\n# another line\n")
    done = run("compare", "--resume", out)
    assert done.exit_code == 0
    assert done.stderr.startswith(f"{file} has been changed since the comparison was begun: runs ")
    file.write_text(MINE.format(objectives=("west", "east", "north")))
    done = run("compare", "--resume", out)
    assert done.exit_code == 2
    assert done.stderr == (
        f"{file}:mine is no longer the problem that was planned in {out}: objectives "
        "('east', 'west', 'north') then, ('west', 'east', 'north') now. Put it back, or begin "
        "another comparison in a new folder with --out.\n"
    )


def test_a_record_of_the_first_format_is_read_and_resumed(stopped, whole):
    record = json.loads((stopped / "records.json").read_text())
    for name in ("settings", "source", "fingerprint"):
        del record[name]
    for made in record["runs"]:
        for name in ("layers", "recorded", "weights", "shares"):
            del made[name]
    record["format"] = 1
    (stopped / "records.json").write_text(json.dumps(record))
    assert run("compare", "--resume", stopped).exit_code == 0
    after, expected = (Comparison.load(f / "records.json") for f in (stopped, whole))
    assert [made.history for made in after.runs] == [made.history for made in expected.runs]
    assert "UPGrad" in tables.markdown(after)
    edit(stopped, problem="somebody's")
    done = run("compare", "--resume", stopped)
    assert done.exit_code == 2
    assert 'does not say where its problem "somebody\'s" is from. Name it: ' in done.stderr
