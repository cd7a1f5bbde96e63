"""FairGrad: its equations, the utility it maximises, and the methods it contains."""

import keras
import numpy as np
import pytest
from scipy.optimize import minimize

from compiled import compiled
from polytape.methods.fair_grad import FairGrad
from polytape.methods.nash_mtl import NashMTL
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def weights(method: FairGrad | NashMTL, rows: Array) -> Array:
    return Trial(method, compiled).update(rows, np.ones(len(rows))).weights.astype("float64")


@pytest.mark.parametrize("alpha", [0.25, 1.0, 2.0, 5.0])
def test_weights_solve_the_equations(alpha: float) -> None:
    rng = np.random.default_rng(0)
    trial = Trial(FairGrad(alpha=alpha), compiled)
    for columns in (12, 5):
        rows = rng.normal(size=(5, columns)) * rng.uniform(0.3, 3, size=(5, 1))
        found = trial.update(rows, np.ones(5)).weights.astype("float64")
        gains = rows @ (rows.T @ found)
        parts = np.abs(rows @ rows.T) @ found
        np.testing.assert_allclose(gains, found ** (-1 / alpha), atol=1e-5 * parts.max())


def test_the_direction_maximises_the_fair_utility() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 5))
    powers = np.array([2.0, 0.5, 0.5])
    found = rows.T @ weights(FairGrad(alpha=2.0, preference=tuple(powers)), rows)
    found /= np.linalg.norm(found)

    def loss(step: Array) -> float:  # of alpha = 2: sum p / gain, on the unit sphere
        gains = rows @ step / np.linalg.norm(step)
        return np.sum(powers / gains) if (gains > 0).all() else 1e9

    best = minimize(loss, found, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert loss(found) <= best.fun * (1 + 1e-6)


def test_alpha_one_is_nash() -> None:
    rows = np.random.default_rng(2).normal(size=(4, 6))
    for preference in (None, (1.0, 3.0, 2.0, 0.5)):
        fair = weights(FairGrad(alpha=1.0, preference=preference), rows)
        nash = weights(NashMTL(max_norm=None, preference=preference), rows)
        np.testing.assert_allclose(fair, nash, rtol=1e-6)


def test_one_objective_and_a_zero_row_in_closed_form() -> None:
    found = weights(FairGrad(alpha=2.0), np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 0.5]]))
    np.testing.assert_allclose(found, [3 ** (-4 / 3), 0, 0.5 ** (-4 / 3)], rtol=1e-5)


@pytest.mark.engine
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="TorchJD runs on PyTorch")
def test_agrees_with_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    import torch

    rows = np.random.default_rng(3).normal(size=(4, 8))
    right = aggregation.FairGrad(alpha=2.0)(torch.tensor(rows)).numpy()
    found = rows.T @ weights(FairGrad(alpha=2.0), rows)
    np.testing.assert_allclose(found, right, atol=1e-3 * np.linalg.norm(right))
