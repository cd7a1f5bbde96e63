"""Aligned-MTL against the polar factor of J from a float64 singular value decomposition."""

import numpy as np
import pytest

from compiled import compiled
from polytape.methods.aligned_mtl import AlignedMTL
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

GOALS = {"min": np.min, "median": np.median, "mean": np.mean}


def by_svd(rows: Array, target: str, preference: Array) -> Array:
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    kept = values > 1e-6 * values.max()
    polar = left[:, kept] @ right[kept]
    return np.sqrt(GOALS[target](values[kept] ** 2)) * preference @ polar


@pytest.mark.parametrize("target", list(GOALS))
def test_matches_the_polar_factor(target: str) -> None:
    rng = np.random.default_rng(0)
    trial = Trial(AlignedMTL(target=target), compiled)
    for columns in (30, 6, 3, 2):  # the last two have rank < T
        rows = rng.normal(size=(4, columns)) * rng.uniform(0.3, 3, size=(4, 1))
        found = trial.update(rows, np.ones(4)).direction
        right = by_svd(rows, target, np.ones(4))
        np.testing.assert_allclose(found, right, atol=2e-3 * np.linalg.norm(right))


def test_the_aligned_system_has_condition_number_one() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 8)) * np.array([[1.0], [5.0], [0.2]])
    together = Trial(AlignedMTL()).update(rows, np.ones(3)).direction
    aligned = []
    for favoured in range(3):
        preference = tuple(2.0 if t == favoured else 1.0 for t in range(3))
        found = Trial(AlignedMTL(preference=preference)).update(rows, np.ones(3)).direction
        aligned.append(found * 4 / 3 - together)  # preferences are rescaled to add up to three
    values = np.linalg.svd(np.array(aligned), compute_uv=False)
    np.testing.assert_allclose(values, np.linalg.svd(rows, compute_uv=False).min(), rtol=2e-3)


def test_only_proportions_of_a_preference_count() -> None:
    rows = np.random.default_rng(2).normal(size=(2, 5))
    one = Trial(AlignedMTL(preference=(1.0, 3.0))).update(rows, np.ones(2)).direction
    other = Trial(AlignedMTL(preference=(10.0, 30.0))).update(rows, np.ones(2)).direction
    np.testing.assert_allclose(one, other, rtol=1e-5)
    right = by_svd(rows, "min", np.array([0.5, 1.5]))
    np.testing.assert_allclose(one, right, rtol=1e-3, atol=1e-4)
