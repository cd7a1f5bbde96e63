"""DualProj against the projection of a vector on a cone, in float64."""

import numpy as np
import pytest
from scipy.optimize import nnls

from compiled import compiled
from polytape.methods.dual_proj import DualProj
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def by_moreau(rows: Array, wanted: Array) -> Array:
    """The x nearest to `wanted` with rows @ x >= 0: what is left of it beside the polar cone."""
    return wanted + rows.T @ nnls(-rows.T, wanted)[0]


@pytest.mark.parametrize("preference", [None, (1.0, 4.0, 2.0, 0.5, 3.0)])
def test_matches_the_projection(preference: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(0)
    trial = Trial(DualProj(preference=preference), compiled)
    share = np.array(preference or (1.0,) * 5)
    share *= 5 / share.sum()
    for columns in (12, 5, 3):  # with three columns the rank is below T
        for _ in range(5):
            rows = rng.normal(size=(5, columns)) * rng.uniform(0.1, 10, size=(5, 1))
            found = trial.update(rows, np.ones(5))
            right = by_moreau(rows, share @ rows)
            np.testing.assert_allclose(found.direction, right, atol=1e-4 * found.size)
            assert (found.weights >= share * (1 - 1e-6)).all()


def test_without_conflict_with_the_sum_it_is_the_sum() -> None:
    rows = np.array([[1.0, 0.0], [-0.5, 1.0]])  # in conflict with each other, not with the sum
    found = Trial(DualProj(), compiled).update(rows, np.ones(2)).weights
    np.testing.assert_allclose(found, 1, rtol=1e-6)


def test_opposed_gradients_cancel_and_the_others_are_projected() -> None:
    rows = np.array([[1.0, 0.0], [-3.0, 0.0], [2.0, 1.0]])
    found = Trial(DualProj(), compiled).update(rows, np.ones(3)).direction
    np.testing.assert_allclose(found, [0, 1], atol=2e-5)
