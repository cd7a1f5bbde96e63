"""ConicGrad against its own problem, by a conic solver in float64, and at its ends."""

from functools import cache

import cvxpy
import numpy as np
import pytest

from compiled import compiled
from polytape.methods.conic_grad import ConicGrad
from polytape.methods.mgda import MGDA
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


@cache
def trial(c: float) -> Trial:
    return Trial(ConicGrad(c=c, scale="paper"), compiled)


def update(rows: Array, c: float) -> Array:
    return trial(c).update(rows, np.ones(len(rows))).direction


def best(rows: Array, c: float) -> float:
    """The largest least gain in the cone, for |d| <= |g_0|."""
    mean = rows.mean(axis=0)
    length = np.linalg.norm(mean)
    d, least = cvxpy.Variable(rows.shape[1]), cvxpy.Variable()
    near = cvxpy.SOC(mean @ d / (c * length), d)
    bounds = [rows @ d >= least, near, cvxpy.SOC(cvxpy.Constant(length), d)]
    return cvxpy.Problem(cvxpy.Maximize(least), bounds).solve(solver="CLARABEL")


@pytest.mark.parametrize("c", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("count", [2, 3, 8, 24])
def test_is_in_the_cone_and_best_for_the_worst(count: int, c: float) -> None:
    rng = np.random.default_rng(count)
    rims = 0
    for common in (0.2, 0.5, 1.0, 2.0):
        rows = rng.normal(size=(count, 30)) + common * rng.normal(size=30)
        rows *= rng.uniform(0.3, 3, size=(count, 1))
        mean, found = rows.mean(axis=0), update(rows, c)
        length = np.linalg.norm(mean)
        cosine = found @ mean / (length * np.linalg.norm(found))
        assert np.linalg.norm(found) == pytest.approx(length, rel=1e-4)
        assert cosine >= c - 1e-5
        size = length * np.linalg.norm(rows, axis=1).max()
        assert (rows @ found).min() >= best(rows, c) - 1e-5 * size
        rims += cosine < c + 1e-4
    assert rims > 0 or c < 0.95  # nearly all hulls reach into a wide cone


def test_wide_cone_holds_the_direction_of_mgda() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 12)) + 0.5
    found, free = update(rows, 0.01), Trial(MGDA(), compiled).update(rows, np.ones(4)).direction
    np.testing.assert_allclose(
        found / np.linalg.norm(found), free / np.linalg.norm(free), atol=1e-4
    )


def test_narrow_cone_leaves_the_mean() -> None:
    rows = np.random.default_rng(1).normal(size=(4, 12))
    found, mean = update(rows, 0.99999), rows.mean(axis=0)
    np.testing.assert_allclose(found, mean, atol=1e-2 * np.linalg.norm(mean))


def test_where_every_tilt_hurts_somebody_it_is_the_mean() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(update(rows, 0.5), rows.mean(axis=0), atol=1e-5)


def test_opposed_gradients_give_the_mean() -> None:
    rows = np.array([[1.0, 1.0], [-3.0, -3.0]])
    np.testing.assert_allclose(update(rows, 0.5), rows.mean(axis=0), rtol=1e-5)


def test_without_a_mean_there_is_no_update() -> None:
    rows = np.array([[1.0, 2.0], [-1.0, -2.0]])
    np.testing.assert_allclose(update(rows, 0.5), [0.0, 0.0], atol=1e-6)
