"""TrimmedMean against sorting in NumPy."""

import numpy as np
import pytest
from keras import ops

from polytape.contract import Seed
from polytape.methods.rowwise.trimmed_mean import TrimmedMean
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def combine(rows: Array, trim: int) -> Array:
    given = ops.convert_to_tensor(np.float32(rows))
    return ops.convert_to_numpy(TrimmedMean(trim=trim).combine(given, Seed(0)))


@pytest.mark.parametrize("trim", [0, 1, 2])
def test_is_the_mean_without_the_extremes(trim: int) -> None:
    rows = np.random.default_rng(trim).normal(size=(6, 50))
    right = 6 * np.sort(rows, axis=0)[trim : 6 - trim].mean(0)
    np.testing.assert_allclose(combine(rows, trim), right, rtol=1e-4, atol=1e-5)


def test_one_gradient_cannot_carry_a_coordinate_away() -> None:
    rows = np.vstack([np.random.default_rng(0).normal(size=(4, 9)), np.full((1, 9), 1e30)])
    assert np.abs(combine(rows, 1)).max() < 5 * np.abs(rows[:4]).max()


def test_trims_at_most_to_the_median() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 9))
    np.testing.assert_allclose(combine(rows, 7), 5 * np.median(rows, axis=0), rtol=1e-5)
    np.testing.assert_allclose(combine(rows[:4], 7), 4 * np.median(rows[:4], axis=0), rtol=1e-5)


def test_rows_that_are_away_have_no_say() -> None:
    rows = np.random.default_rng(2).normal(size=(5, 9)) + 3
    active = np.array([True, True, False, True, True])
    found = Trial(TrimmedMean()).update(rows, np.ones(5), active).direction
    right = 4 * np.sort(rows[active], axis=0)[1:3].mean(0)
    np.testing.assert_allclose(found, right, rtol=1e-4)
    assert (combine(np.zeros((3, 4)), 1) == 0).all()
