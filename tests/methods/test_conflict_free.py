"""ConFIG against its construction from the pseudo-inverse of the unit rows, in float64."""

import numpy as np
import pytest

from compiled import compiled
from polytape.methods.conflict_free import ConFIG
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def by_pseudo_inverse(rows: Array, preference: Array) -> Array:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ahead = np.linalg.pinv(unit) @ preference
    ahead /= np.linalg.norm(ahead)
    return (rows @ ahead).sum() * ahead


@pytest.mark.parametrize("preference", [None, (1.0, 2.0, 3.0, 0.5)])
def test_matches_the_pseudo_inverse(preference: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(0)
    trial = Trial(ConFIG(preference=preference), compiled)
    wanted = np.array(preference or (1.0,) * 4)
    for columns in (30, 30, 6, 3):  # the last one has rank < T
        rows = rng.normal(size=(4, columns)) * rng.uniform(0.1, 10, size=(4, 1))
        found = trial.update(rows, np.ones(4)).direction
        right = by_pseudo_inverse(rows, wanted)
        np.testing.assert_allclose(found, right, atol=1e-3 * np.linalg.norm(right))
        if columns > 3:
            cosines = rows @ found / np.linalg.norm(rows, axis=1) / wanted
            np.testing.assert_allclose(cosines, cosines.mean(), rtol=1e-3)


def test_two_parallel_rows_are_no_exception() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 6.0]])
    found = Trial(ConFIG(), compiled).update(rows, np.ones(2)).direction
    np.testing.assert_allclose(found, [4.0, 8.0], rtol=1e-5)


def test_preference_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one entry per objective. Received: \(1.0, 2.0\) of len"):
        Trial(ConFIG(preference=(1.0, 2.0))).update(np.eye(3), np.ones(3))


def test_preference_keeps_its_proportions_when_one_is_inactive() -> None:
    rows = np.random.default_rng(1).normal(size=(3, 9))
    active = np.array([True, False, True])
    found = Trial(ConFIG(preference=(1.0, 7.0, 4.0))).update(rows, np.ones(3), active)
    right = by_pseudo_inverse(rows[active], np.array([1.0, 4.0]))
    np.testing.assert_allclose(found.direction, right, rtol=1e-3, atol=1e-4)
