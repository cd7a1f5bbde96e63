"""PCD against quadprog on vectors and a plain loop over the running means."""

import numpy as np
import pytest
import quadprog

from compiled import compiled
from polytape.methods.pcd import PCD
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

TRIAL = Trial(PCD(tau=0.3, beta=0.9), compiled)


def by_quadprog(rows: Array, mean: Array, tau: float) -> Array:
    units = rows / np.sqrt(mean)[:, None]
    others = units[1:]
    try:
        found = quadprog.solve_qp(
            np.eye(rows.shape[1]), units[0], others.T.copy(), tau * (others**2).sum(1)
        )[0]
    except ValueError:  # the constraints are inconsistent
        return rows[0]
    return found * np.linalg.norm(rows[0]) / np.linalg.norm(found)


@pytest.mark.parametrize("seed", range(8))
def test_matches_quadprog_over_several_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, mean = TRIAL.start((5,)), np.zeros(5)
    for step in range(4):
        rows = rng.normal(size=(5, 4 + seed)) * 10.0 ** rng.uniform(-2, 2, size=(5, 1))
        mean = 0.9 * mean + 0.1 * (rows**2).sum(1)
        weights, state = TRIAL.step(rows, np.ones(5), np.ones(5, bool), state)
        right = by_quadprog(rows, mean / (1 - 0.9 ** (step + 1)), 0.3)
        close = 1e-3 * np.abs(weights) @ np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(rows.T @ np.float64(weights), right, atol=close)


def test_an_objective_that_is_away_keeps_its_mean() -> None:
    rng = np.random.default_rng(0)
    rows, active = rng.normal(size=(3, 6)), np.array([True, True, False])
    _, before = TRIAL.step(rows, np.ones(3), np.ones(3, bool), TRIAL.start((3,)))
    _, after = TRIAL.step(rows * active[:, None], active * 1.0, active, before)
    assert float(after.mean[2]) == float(before.mean[2])
    assert [float(value) for value in after.seen] == [2, 2, 1]


def test_constraints_in_contradiction_leave_the_primary_gradient() -> None:
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -2.0, 0.0]])
    np.testing.assert_allclose(TRIAL.update(rows, np.ones(3)).weights, [1, 0, 0], atol=1e-6)


def test_the_primary_objective_by_name_and_its_deputy() -> None:
    rows = np.eye(3) * [[1.0], [2.0], [4.0]]
    trial = Trial(PCD(tau=0.0, primary="objective_2"))
    np.testing.assert_allclose(trial.update(rows, np.ones(3)).weights, [0, 0, 1], atol=1e-6)
    active = np.array([True, True, False])
    found = trial.update(rows, np.ones(3), active).weights
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-6)
    text = r"PCD\(primary='nobody'\): `primary` must be the name of an objective. Objectives: 'obj"
    with pytest.raises(ValueError, match=text):
        Trial(PCD(primary="nobody")).update(rows, np.ones(3))


def test_no_primary_gradient_no_update() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert (TRIAL.update(rows, np.ones(2)).weights == 0).all()
