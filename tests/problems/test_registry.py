import textwrap

import pytest

from polytape.problems import load

MINE = """
from polytape.problems import load
import dataclasses

def as_problem():
    return dataclasses.replace(load("toy"), name="mine")

def as_fields():
    toy = load("toy")
    return {field.name: getattr(toy, field.name) for field in dataclasses.fields(toy)}

def misspelt():
    return {**as_fields(), "learning_rte": 1.0}

def incomplete():
    return {"name": "half", "description": "", "objectives": ("a", "b")}

def forgetful():
    as_problem()

def broken():
    return {}["key"]
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MINE))
    return path


@pytest.mark.parametrize("function", ["as_problem", "as_fields"])
def test_loads_a_problem_of_ones_own(mine, function):
    assert load(f"{mine}:{function}").objectives == ("east", "west", "north")


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        ("as_problm", ValueError, r"mine.py has no function 'as_problm'. Did you mean as_problem"),
        ("zzz", ValueError, r"has no function 'zzz'. It has as_problem, as_fields"),
        ("misspelt", ValueError, r"no field 'learning_rte'. Did you mean learning_rate\?"),
        ("incomplete", ValueError, r"missing fields: build, data, losses, headline\."),
        ("forgetful", TypeError, r"Received: NoneType. Does the function end without `return`\?"),
        ("broken", ValueError, r"mine.py:broken\(\) failed with KeyError: 'key'"),
    ],
)
def test_says_what_is_wrong_with_it(mine, function, error, text):
    with pytest.raises(error, match=text):
        load(f"{mine}:{function}")


def test_offers_the_nearest_file(mine):
    with pytest.raises(ValueError, match=r"There is no file .*mime\.py .*Did you mean .*mine\.py"):
        load(f"{mine.with_name('mime.py')}:as_problem")


def test_asks_for_the_function(mine):
    with pytest.raises(ValueError, match=r"Which problem in .*mine\.py\? .* It has .*:as_problem"):
        load(str(mine))


def test_a_file_that_cannot_be_run_is_named(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module")
    with pytest.raises(ValueError, match=r"bad\.py cannot be run: ModuleNotFoundError"):
        load(f"{tmp_path / 'bad.py'}:f")


def test_offers_the_nearest_name():
    with pytest.raises(ValueError, match=r"Unknown problem: 'multidigit'\. Did you mean 'mult"):
        load("multidigit")
