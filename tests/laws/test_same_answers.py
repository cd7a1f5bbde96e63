"""Every method answers as it does on NumPy, where `tests/methods` tests the maths in full.

It is compiled, as in training: with its usual settings on all matrices of the laws, with others on
some of them; then asked step by step with its state.
"""

import os

import keras
import numpy as np
import pytest

from answers import Answers, answers, cases, chosen, of_numpy
from polytape.testing.trials import Update, differ

# Those of a method run in one process, which has compiled it for the laws already.
CASES = [pytest.param(case, marks=pytest.mark.xdist_group(case.split()[0])) for case in cases()]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    folder = tmp_path_factory.getbasetemp()  # of this process; with xdist, inside that of the run
    return of_numpy(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


def update(found: Answers, matrix: str) -> Update:
    parts = (found[f"{matrix}: {part}"] for part in ("weights", "direction", "size"))
    weights, direction, size = (np.array(part) for part in parts)
    return Update(weights, direction, float(size[0]))


@pytest.mark.skipif(keras.backend.backend() == "numpy", reason="it is what others are compared to")
@pytest.mark.parametrize("case", CASES)
def test_same_answers_as_on_numpy(case: str, right: dict[str, Answers]) -> None:
    found, wanted = answers(case), right[case]
    assert found.keys() == wanted.keys()
    for matrix in chosen(case):
        one, other = (update(given, matrix.name) for given in (found, wanted))
        assert not [*differ(matrix, one, other)]
    for key, values in wanted.items():  # weights and state
        if key.startswith(("step ", "well conditioned: ")):
            size = max(1.0, np.abs(values).max(initial=0.0))
            np.testing.assert_allclose(found[key], values, rtol=1e-3, atol=1e-4 * size, err_msg=key)
