from functools import cache

import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled


@cache
def weigher(method):
    return compiled(lambda gramian, losses: pt.weigh(method, gramian, losses)[0])


def weights(method, rows, losses=None):
    rows = np.asarray(rows, "float64")
    losses = np.ones(len(rows)) if losses is None else losses
    gramian = ops.array((rows @ rows.T).astype("float32"))
    return np.asarray(weigher(method)(gramian, ops.array(losses, "float32")), "float64")


def test_two_objectives_in_closed_form():
    first, second = np.array([1.0, 2.0, 0.0]), np.array([3.0, -1.0, 0.5])
    share = np.clip((second - first) @ second / np.sum((first - second) ** 2), 0, 1)
    found = weights(pt.MGDA(scale="paper"), [first, second])
    np.testing.assert_allclose(found, [share, 1 - share], atol=1e-5)


def test_every_loss_falls_by_at_least_the_squared_norm_of_the_update():
    rows = np.random.default_rng(0).normal(size=(6, 9)) * np.logspace(-3, 3, 6)[:, None]
    found = weights(pt.MGDA(scale="paper"), rows)
    update, lengths = rows.T @ found, np.linalg.norm(rows, axis=1)
    # Up to rounding of each gradient's share in the update.
    rounding = 1e-5 * lengths * (lengths @ found)
    assert np.all(rows @ update >= update @ update - rounding)


def test_normalised_by_norm_weighs_the_bisector():
    found = weights(pt.MGDA(normalize="l2", scale="paper"), [[1e-3, 0], [0, 1e3]])
    np.testing.assert_allclose(found, 0.5, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_normalised_by_loss(size):
    losses = np.array([size, 2 * size])
    found = weights(pt.MGDA(normalize="loss", scale="paper"), [[1, 0], [0, 2]], losses=losses)
    np.testing.assert_allclose(found, 0.5, rtol=1e-5)
    found = weights(pt.MGDA(normalize="loss+", scale="paper"), [[1, 0], [0, 7]], losses=losses)
    np.testing.assert_allclose(found, [0.2, 0.8], rtol=1e-5)


def test_a_loss_of_zero_weighs_nothing_when_losses_normalise():
    rows, losses = np.eye(3), np.array([1.0, 0.0, 1.0])
    found = weights(pt.MGDA(normalize="loss", scale="paper"), rows, losses=losses)
    np.testing.assert_allclose(found, [0.5, 0, 0.5], rtol=1e-5)


def test_a_zero_row_stops_the_update_unless_norms_normalise():
    rows = [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    np.testing.assert_array_equal(weights(pt.MGDA(scale="paper"), rows), [0, 1, 0])
    found = weights(pt.MGDA(normalize="l2", scale="paper"), rows)
    np.testing.assert_allclose(found, [0.5, 0, 0.5], rtol=1e-5)


def test_plain_as_compiled():
    rows = np.array([[1.0, 0.0], [-0.5, 2.0]])
    plain = pt.weigh(pt.MGDA(), rows @ rows.T)[0]
    np.testing.assert_allclose(np.asarray(plain), weights(pt.MGDA(), rows), rtol=1e-5)
