from functools import cache

import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled


@cache
def weigher(method):
    return compiled(lambda gramian: pt.weigh(method, gramian)[0])


def weights(method, rows):
    rows = np.asarray(rows, "float64")
    gramian = ops.array((rows @ rows.T).astype("float32"))
    return np.asarray(weigher(method)(gramian), "float64")


def test_two_objectives_in_closed_form():
    rows = np.array([[3.0, 4.0], [0.1, -0.1]])
    lengths = np.linalg.norm(rows, axis=1)
    cosine = rows[0] @ rows[1] / lengths.prod()
    found = weights(pt.NashMTL(max_norm=None), rows)
    np.testing.assert_allclose(found, 1 / (lengths * np.sqrt(1 + cosine)), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_length_of_the_update_does_not_depend_on_the_losses(scale):
    rows = scale * np.random.default_rng(0).normal(size=(5, 8))
    free = rows.T @ weights(pt.NashMTL(max_norm=None), rows)
    assert np.linalg.norm(free) == pytest.approx(np.sqrt(5), rel=1e-4)
    bound = rows.T @ weights(pt.NashMTL(), rows)
    assert np.linalg.norm(bound) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(bound, free / np.sqrt(5), rtol=1e-3)


def test_a_bound_that_is_not_reached_does_nothing():
    found = weights(pt.NashMTL(max_norm=2.0), np.eye(3))
    np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_multiplying_one_loss_leaves_the_update_as_it_is():
    rows = np.random.default_rng(1).normal(size=(4, 6))
    scaled = rows * [[1.0], [100.0], [1.0], [0.01]]
    plain = rows.T @ weights(pt.NashMTL(), rows)
    np.testing.assert_allclose(scaled.T @ weights(pt.NashMTL(), scaled), plain, rtol=1e-3)


def test_a_zero_row_does_not_take_part():
    found = weights(pt.NashMTL(max_norm=None), [[1.0, 0], [0, 0], [1, 1]])
    alone = weights(pt.NashMTL(max_norm=None), [[1.0, 0], [1, 1]])
    np.testing.assert_allclose(found, [alone[0], 0, alone[1]], rtol=1e-5)


def test_opposed_gradients_stay_bounded_and_cancel_out():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = weights(pt.NashMTL(), rows)
    assert np.all(np.isfinite(found))
    assert np.abs(rows.T @ found).max() < 0.1


def test_preference_shares_out_the_gains():
    rows = np.random.default_rng(2).normal(size=(3, 5)) * [[1.0], [20.0], [0.3]]
    method = pt.NashMTL(max_norm=None, preference=(1.0, 2.0, 6.0))
    found = weights(method, rows)
    np.testing.assert_allclose(found * (rows @ (rows.T @ found)), [1 / 3, 2 / 3, 2], rtol=1e-4)
