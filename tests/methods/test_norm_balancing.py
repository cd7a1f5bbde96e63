import numpy as np
import pytest

from compiled import compiled
from histories import history
from polytape.methods.norm_balancing import NormBalancing
from polytape.stages.smoothed import Smoothed
from polytape.testing.matrices import matrices
from polytape.testing.trials import Trial


@pytest.mark.parametrize("target", ["mean", "sum"])
def test_all_rows_come_to_the_mean_or_sum_of_their_norms(target: str) -> None:
    trial = Trial(NormBalancing(target), compiled)
    for matrix in matrices():
        lengths = np.linalg.norm(matrix.rows, axis=1)
        wanted = getattr(lengths[lengths > 0], target)()
        found = trial.on(matrix).weights * lengths
        np.testing.assert_allclose(found, np.where(lengths > 0, wanted, 0), rtol=1e-5)


def test_moving_average_of_the_weights() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3, 4)) * [[1.0], [10.0], [0.1]]
    lengths = np.linalg.norm(rows, axis=2)
    fresh = lengths.mean(1, keepdims=True) / lengths
    right = [fresh[0]]
    for weights in fresh[1:]:
        right.append(0.9 * right[-1] + 0.1 * weights)
    found = history(Smoothed(NormBalancing(), decay=0.9), lengths, rows=rows)
    np.testing.assert_allclose(found, right, rtol=1e-5)
