"""Every wrong call is answered in words: the culprit, what came, what was expected, the remedy.

`helpers/wrong_calls.py` has the calls, `wrong_calls.txt` the answers in full, to be read as one
text. An ellipsis stands for what differs from run to run or from backend to backend.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import polytape as pt
from wrong_calls import GROUPS

pytestmark = pytest.mark.engine
CALLS = {f"{group}: {name}": call for group in GROUPS for name, call in GROUPS[group].items()}
TEXT = (Path(__file__).parent / "wrong_calls.txt").read_text(encoding="utf-8")
ANSWERS = dict(re.findall(r"^(\S.*)\n    (.*)$", TEXT, flags=re.MULTILINE))


def test_each_call_has_an_answer() -> None:
    assert [*CALLS] == [*ANSWERS]
    assert len(CALLS) > 300


@pytest.mark.parametrize("name", CALLS)
def test_answer(name: str) -> None:
    with pytest.raises(Exception) as caught:
        CALLS[name]()
    notes = getattr(caught.value, "__notes__", ())  # JAX adds some of its own
    texts = (str(caught.value), *(note for note in notes if note.startswith("In the loss")))
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = f"{type(caught.value).__name__}: {' '.join(lines)}"
    pattern = ".*".join(map(re.escape, ANSWERS[name].split("…")))
    assert re.fullmatch(pattern, found), f"\n{found}\ninstead of\n{ANSWERS[name]}"


def test_numpy_numbers_are_numbers() -> None:
    objective = pt.Objective("a", "mse", weight=np.float32(0.5), every=np.int64(2))
    assert (objective.weight, objective.every) == (0.5, 2)
    assert pt.Phase("a", steps=np.int64(3)).steps == 3
    assert pt.Combiner("upgrad", seed=np.int64(3)).seed == 3
