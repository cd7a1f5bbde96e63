import dataclasses
import json
import math

import pytest

from made_up import made_up, spoil
from polytape.diagnostics.records import Comparison


def test_round_trip(tmp_path):
    found = made_up()
    found.interrupted = True
    found.save(tmp_path / "records.json")
    assert Comparison.load(tmp_path / "records.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["records.json"]


def test_numbers_that_are_not_finite_are_null_and_come_back_as_nan(tmp_path):
    found = made_up()
    spoil(found, 0, "diverged", "reason")
    found.save(tmp_path / "records.json")
    plain = json.loads((tmp_path / "records.json").read_text())
    assert plain["runs"][0]["history"]["val_left_accuracy"][-1] is None
    back = Comparison.load(tmp_path / "records.json")
    assert math.isnan(back.runs[0].history["val_left_accuracy"][-1])


def test_missing_is_the_plan_without_the_runs():
    found = dataclasses.replace(made_up(), runs=made_up().runs[:3])
    assert found.missing == [("UPGrad", 0), ("Sum", 1), ("UPGrad", 1)]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"text"'])
def test_refuses_other_files(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match="is not a record of a comparison"):
        Comparison.load(tmp_path / "other.json")


def test_refuses_a_newer_format(tmp_path):
    (tmp_path / "new.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="has format 99, this version of polytape reads 1 and 2"):
        Comparison.load(tmp_path / "new.json")
