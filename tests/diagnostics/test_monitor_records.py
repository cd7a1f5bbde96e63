import dataclasses
import json
import math
import subprocess
import sys

import pytest

from polytape.diagnostics.monitor_records import (
    EpochRecord,
    Figures,
    Header,
    MonitorRun,
    MonitorWriter,
    StepRecord,
    epoch_means,
    set_aside,
)

HEADER = Header(
    objectives=("a", "b", "c"),
    networks=("trunk", "head"),
    method={"name": "UPGrad", "settings": {}},
    optimizer={"name": "Adam", "settings": {"learning_rate": 0.1}},
    every=10,
    environment={"keras": "3", "backend": "jax"},
    phases=({"objectives": ["a", "b", "c"], "steps": 1},),
)
GRAMIAN = [[4.0, -2.0, 0.0], [-2.0, 9.0, 3.0], [0.0, 3.0, 1.0]]


def record(step, epoch=0, **changes):
    given = {
        "norms": {"a": 3.0, "b": 3.0, "c": 1.0},
        "gramian": GRAMIAN,
        "weights": {"a": 1.0, "b": 0.5, "c": 1.0},
        "share": {"a": 0.5, "b": 0.25, "c": 0.25},
        "losses": {"a": 1.0 + step, "b": 2.0, "c": 3.0},
        "networks": {"trunk": Figures({"a": 2.0, "b": 3.0, "c": 1.0}, GRAMIAN)},
    }
    return StepRecord(step=step, epoch=epoch, seconds=step / 8, **{**given, **changes})


def write(folder, *records):
    writer = MonitorWriter(folder)
    writer.write(records)
    writer.close()
    return folder / "monitor.jsonl"


def steps(run):
    return [each.step for each in run.steps]


def test_round_trip(tmp_path):
    given = [record(0), record(10), EpochRecord(0, {"loss": 0.5})]
    path = write(tmp_path / "new" / "folder", HEADER, *given)
    run = MonitorRun.load(path)
    assert run == MonitorRun.load(path.parent)
    assert run.header == HEADER
    assert run.steps == given[:2]
    assert run.epochs == given[2:]
    assert not run.torn
    assert run.column("loss/a") == [1.0, 11.0]
    assert run.column("trunk/norm/b") == [3.0, 3.0]


def test_cosines_and_conflict():
    found = record(0)
    assert found.cosines[0] == pytest.approx([1.0, -1 / 3, 0.0])
    assert found.pairs == pytest.approx({("a", "b"): -1 / 3, ("a", "c"): 0.0, ("b", "c"): 1.0})
    assert found.conflict_rate == pytest.approx(1 / 3)
    assert found.networks["trunk"].conflict_rate == pytest.approx(1 / 3)


def test_an_inactive_objective_and_a_zero_gradient_form_no_pair():
    nan = math.nan
    gramian = [[4.0, nan, -2.0, 0.0], [nan] * 4, [-2.0, nan, 1.0, 0.0], [0.0, nan, 0.0, 0.0]]
    found = Figures(dict.fromkeys("abcd", 1.0), gramian)
    assert found.pairs == {("a", "c"): -1.0}
    assert found.conflict_rate == 1.0
    assert math.isnan(Figures({"a": 1.0}, [[1.0]]).conflict_rate)
    assert math.isnan(Figures({"a": 1.0, "b": 1.0}).conflict_rate)


def test_numbers_that_are_not_finite_are_null_and_come_back_as_nan(tmp_path):
    bad = record(0, losses={"a": math.inf, "b": math.nan, "c": 1.0})
    path = write(tmp_path, HEADER, bad)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert lines[1]["losses"] == {"a": None, "b": None, "c": 1.0}
    assert lines[1]["conflict_rate"] == pytest.approx(1 / 3)
    back = MonitorRun.load(path).steps[0]
    assert math.isnan(back.losses["a"])
    assert math.isnan(back.losses["b"])


def test_what_has_no_meaning_is_left_out(tmp_path):
    path = write(tmp_path, HEADER, record(0, gramian=[], weights={}, share={}))
    line = json.loads(path.read_text().splitlines()[1])
    assert {"gramian", "weights", "share", "conflict_rate"}.isdisjoint(line)
    back = MonitorRun.load(path).steps[0]
    assert (back.gramian, back.weights, back.share, back.cosines) == ([], {}, {}, [])


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_torn_last_line_is_left_aside_and_goes_when_the_file_is_continued(tmp_path, kept):
    path = write(tmp_path, HEADER, record(0), record(10))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2][:kept])
    run = MonitorRun.load(path)
    assert steps(run) == [0]
    assert run.torn
    write(tmp_path, record(10))
    assert path.read_bytes().splitlines(keepends=True) == whole
    assert not MonitorRun.load(path).torn


def test_a_last_line_without_its_end_is_whole(tmp_path):
    path = write(tmp_path, HEADER, record(0))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert steps(MonitorRun.load(path)) == [0]
    write(tmp_path, record(10))
    assert steps(MonitorRun.load(path)) == [0, 10]


def test_steps_and_epochs_that_are_made_again_count_once(tmp_path):

    path = write(tmp_path, HEADER, record(0), record(10), EpochRecord(0, {}), record(20, 1))
    again = dataclasses.replace(HEADER, step=15, epoch=1, seconds=2.0)
    later = record(20, 1, norms={"a": 7.0, "b": 7.0, "c": 7.0})
    write(tmp_path, again, later, EpochRecord(1, {}))
    run = MonitorRun.load(path)
    assert steps(run) == [0, 10, 20]
    assert run.steps[-1] == later
    assert [each.epoch for each in run.epochs] == [0, 1]
    assert run.header == again
    assert run.headers == [HEADER, again]
    assert len(path.read_text().splitlines()) == 8  # nothing was taken out of the file


def test_phases_apart(tmp_path):
    write(tmp_path, HEADER, record(0), record(0, phase=1), record(10))
    run = MonitorRun.load(tmp_path)
    assert steps(run) == [0, 0, 10]
    assert [each.step for each in run.of_phase(1)] == [0]
    assert run.column("loss/a", phase=0) == [1.0, 11.0]


def test_epoch_means_are_over_what_is_a_number():
    records = [record(0), record(10, losses={"a": math.nan, "b": 4.0, "c": math.nan})]
    means = epoch_means(records)
    assert means["loss/a"] == 1.0
    assert means["loss/b"] == 3.0
    assert means["trunk/cosine/a/b"] == pytest.approx(-1 / 3)
    assert math.isnan(epoch_means([records[1]])["loss/a"])
    assert epoch_means([]) == {}


def test_an_earlier_training_is_set_aside(tmp_path):
    assert set_aside(tmp_path) is None
    for number in (1, 2):
        write(tmp_path, HEADER, record(number))
        assert set_aside(tmp_path) == tmp_path / f"monitor.{number}.jsonl"
    assert steps(MonitorRun.load(tmp_path / "monitor.2.jsonl")) == [2]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "the first line is no header"),
        ("text", "the first line is no header"),
        ('{"kind": "step"}\n', "the first line is no header"),
        ('{"kind": "header", "format": 1, "objectives": []}\n{\n{}\n', "line 2 is no JSON object"),
    ],
)
def test_refuses_other_files(tmp_path, text, cause):
    (tmp_path / "monitor.jsonl").write_text(text)
    with pytest.raises(ValueError, match=rf"holds no records of a monitor: {cause}"):
        MonitorRun.load(tmp_path)


def test_does_not_write_to_other_files(tmp_path):
    path = tmp_path / "monitor.jsonl"
    path.write_text("{}\ntext\n{}\n")
    with pytest.raises(ValueError, match="a line in the middle is no JSON object"):
        MonitorWriter(tmp_path)
    assert path.read_text() == "{}\ntext\n{}\n"


def test_refuses_a_newer_format(tmp_path):
    (tmp_path / "monitor.jsonl").write_text('{"kind": "header", "format": 99}\n')
    with pytest.raises(ValueError, match="has format 99, this version of polytape reads 1"):
        MonitorRun.load(tmp_path)


def test_is_read_without_any_framework(tmp_path):
    write(tmp_path, HEADER, record(0))
    program = (
        "import sys\n"
        "from polytape.diagnostics.monitor_records import MonitorRun\n"
        f"assert len(MonitorRun.load({str(tmp_path)!r}).steps) == 1\n"
        "print([name for name in ('keras', 'tensorflow', 'jax', 'torch', 'numpy') "
        "if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
