"""IMTL-G: equal projections, and the closed form of the paper in float64."""

import numpy as np

from compiled import compiled
from polytape.methods.imtl_g import IMTLG
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def closed_form(rows: Array) -> Array:
    """Weights as the paper writes them: a_2..T = g_1 U^T (D U^T)^-1, a_1 the rest of one."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    against = unit[:1] - unit[1:]
    others = rows[0] @ against.T @ np.linalg.inv((rows[:1] - rows[1:]) @ against.T)
    return np.array([1 - others.sum(), *others])


def test_projections_are_equal_and_weights_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    trial = Trial(IMTLG(scale="paper"), compiled)
    for _ in range(10):
        rows = rng.normal(size=(4, 30)) * rng.uniform(0.1, 10, size=(4, 1))
        found = trial.update(rows, np.ones(4))
        projections = rows @ found.direction / np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(projections, projections.mean(), rtol=1e-3)
        np.testing.assert_allclose(found.weights, closed_form(rows), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.weights.sum(), 1, rtol=1e-5)


def test_a_sum_that_is_not_positive_still_descends() -> None:
    cosines = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.6], [0.6, 0.6, 1.0]])
    rows = np.array([1.0, 1.0, 0.01])[:, None] * np.linalg.cholesky(cosines)
    assert closed_form(rows).sum() > 0.99
    assert (rows @ (rows.T @ closed_form(rows)) < 0).all()  # what the paper's formula does
    found = Trial(IMTLG(), compiled).update(rows, np.ones(3))
    projections = rows @ found.direction / np.linalg.norm(rows, axis=1)
    assert (projections > 0).all()
    np.testing.assert_allclose(projections, projections.mean(), rtol=1e-3)
    assert np.abs(found.weights).sum() <= 301


def test_rows_that_balance_each_other_weigh_nothing() -> None:
    angles = np.radians([0.0, 120.0, 240.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1.0], [2.0], [3.0]])
    assert (Trial(IMTLG(), compiled).update(rows, np.ones(3)).weights == 0).all()
