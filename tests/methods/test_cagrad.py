"""CAGrad against a search on the segment, its definition, TorchJD, and the claims it makes."""

from functools import cache

import keras
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from compiled import compiled
from polytape.methods.cagrad import CAGrad
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


@cache
def trial(**settings: object) -> Trial:
    return Trial(CAGrad(**settings), compiled)


def update(rows: Array, **settings: object) -> Array:
    return trial(**settings).update(rows, np.ones(len(rows))).direction


def by_search(rows: Array, c: float) -> Array:
    """The paper's update of two objectives; w by search in float64."""
    mean = rows.mean(axis=0)
    radius = c * np.linalg.norm(mean)

    def dual(share: float) -> float:
        mix = np.array([share, 1 - share]) @ rows
        return mix @ mean + radius * np.linalg.norm(mix)

    share = minimize_scalar(dual, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
    mix = np.array([share, 1 - share]) @ rows
    return mean + radius * mix / np.linalg.norm(mix)


@pytest.mark.parametrize("c", [0.4, 2.0])
def test_two_objectives_match_a_search_on_the_segment(c: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        rows = rng.normal(size=(2, 6)) * rng.uniform(0.1, 10, size=(2, 1))
        right = by_search(rows, c)
        found = update(rows, c=c, rescale=0, scale="paper")
        np.testing.assert_allclose(found, right, atol=1e-4 * np.linalg.norm(right))


@pytest.mark.engine
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="TorchJD runs on PyTorch")
def test_agrees_with_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    import torch

    rng = np.random.default_rng(1)
    for columns in (9, 3):
        rows = rng.normal(size=(4, columns)) * rng.uniform(0.5, 2, size=(4, 1))
        right = aggregation.CAGrad(c=0.5, norm_eps=0.0)(torch.tensor(rows)).numpy()
        found = update(rows, rescale=0, scale="paper")
        np.testing.assert_allclose(found, right, atol=1e-3 * np.linalg.norm(right))


def test_the_least_gain_is_that_of_the_mean_at_least_and_the_distance_that_of_the_ball() -> None:
    rows = np.random.default_rng(2).normal(size=(4, 8)) * np.logspace(-1, 1, 4)[:, None]
    mean = rows.mean(axis=0)
    found = update(rows, c=0.4, rescale=0, scale="paper")
    assert (rows @ found).min() > (rows @ mean).min()
    away = np.linalg.norm(found - mean)
    assert away == pytest.approx(0.4 * np.linalg.norm(mean), rel=1e-4)


@pytest.mark.parametrize(("rescale", "divisor"), [(0, 1.0), (1, 1.25), (2, 1.5)])
def test_rescaled_as_documented(rescale: int, divisor: float) -> None:
    rows = np.repeat([[1.0, -2.0]], 3, axis=0)
    right = 3 * rows[0] * 1.5 / divisor
    np.testing.assert_allclose(update(rows, rescale=rescale), right, rtol=1e-5)


def test_preference_moves_the_mean() -> None:
    rows = np.eye(2) + 0.3
    found = update(rows, c=0.0, preference=(3.0, 1.0), scale="paper")
    np.testing.assert_allclose(found, [0.75, 0.25] @ rows, rtol=1e-5)


def test_opposed_gradients_shorten_their_sum() -> None:
    rows = np.array([[1.0, 1.0], [-3.0, -3.0]])
    found = update(rows, c=0.5)
    np.testing.assert_allclose(found, rows.sum(axis=0) / 3, rtol=1e-4)


def test_where_the_formula_is_zero_by_zero_the_update_helps_as_far_as_it_can() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    found = update(rows, rescale=0, scale="paper")
    np.testing.assert_allclose(found, rows.mean(axis=0), atol=1e-4)


def test_a_zero_row_keeps_its_share_and_helps_nobody() -> None:
    rows = np.array([[1.0, 0.2], [-0.5, 2.0], [0.0, 0.0]])
    found = trial().update(rows, np.ones(3)).weights
    alone = trial().update(rows[:2], np.ones(2)).weights
    np.testing.assert_allclose(found, [*alone, 1 / 1.5], rtol=1e-4)
