from functools import cache

import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled


@cache
def weigher(method):
    return compiled(lambda gramian, active: pt.weigh(method, gramian, active=active)[0])


def weights(method, rows, active=None):
    rows = np.asarray(rows, "float64")
    active = np.ones(len(rows), bool) if active is None else active
    gramian = ops.array((rows @ rows.T).astype("float32"))
    return np.asarray(weigher(method)(gramian, ops.array(active)), "float64")


def test_two_objectives_in_conflict_lose_the_conflicting_part_only():
    first, second = np.array([1.0, 0.0]), np.array([-1.0, 2.0])
    freed = (
        first
        - first @ second / (second @ second) * second
        + second
        - first @ second / (first @ first) * first
    )
    found = np.array([first, second]).T @ weights(pt.UPGrad(), [first, second])
    np.testing.assert_allclose(found, freed, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("seed", range(4))
def test_no_loss_rises_whatever_the_norms(seed, scale):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, 5 + 3 * seed)) * np.logspace(-3, 3, 6)[:, None] * scale
    found = weights(pt.UPGrad(), rows)
    assert np.all(found >= 1 - 1e-6)
    # Up to rounding of each gradient's share in the update.
    lengths = np.linalg.norm(rows, axis=1)
    assert np.all(rows @ (rows.T @ found) / lengths >= -1e-5 * np.sum(lengths * found))


def test_without_conflict_it_is_the_sum():
    rows = np.abs(np.random.default_rng(0).normal(size=(4, 6)))
    np.testing.assert_allclose(weights(pt.UPGrad(), rows), 1, rtol=1e-6)
    np.testing.assert_allclose(weights(pt.UPGrad(scale="paper"), rows), 0.25, rtol=1e-6)


def test_preference_counts_in_proportion_and_over_active_objectives():
    method = pt.UPGrad(preference=(3.0, 1.0, 5.0), scale="mean")
    active = np.array([True, True, False])
    found = weights(method, np.diag([1.0, 1.0, 0.0]), active=active)
    np.testing.assert_allclose(found, [0.75, 0.25, 0], rtol=1e-6)


def test_opposed_gradients_cancel_and_leave_the_third_made_orthogonal():
    rows = np.array([[1.0, 0.0], [-2.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(rows.T @ weights(pt.UPGrad(), rows), [0, 1], atol=2e-5)
