import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.linalg.simplex import carried, project, restricted

PROJECT = compiled(project)


def by_bisection(vector):
    low, high = vector.min() - 1, vector.max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(vector - level, 0).sum() > 1 else (low, level)
    return np.maximum(vector - level, 0)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 1e3])
def test_projection_agrees_with_bisection_among_active_entries(scale):
    rng = np.random.default_rng(0)
    vectors = np.float32(scale * rng.normal(size=(40, 9)) + 7 * rng.normal(size=(40, 1)))
    active = rng.uniform(size=vectors.shape) < 0.6
    active[:, 4] = True
    found = np.asarray(PROJECT(ops.array(vectors), ops.array(active)))
    for point, vector, mask in zip(found, vectors.astype("float64"), active, strict=True):
        assert (point[~mask] == 0).all()
        np.testing.assert_allclose(point[mask], by_bisection(vector[mask]), atol=1e-5)


def test_nobody_active_gives_zero():
    assert (np.asarray(PROJECT(ops.ones(3), ops.zeros(3, "bool"))) == 0).all()


def test_who_is_away_keeps_its_weight():
    weights = ops.array([0.2, 0.5, 0.3])
    active = ops.array([True, False, True])
    share = restricted(weights, active)
    np.testing.assert_allclose(np.asarray(share), [0.4, 0, 0.6], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(carried(weights, share, active)), [0.2, 0.5, 0.3], 1e-6)
    again = np.asarray(carried(weights, ops.array([1.0, 0.0, 0.0]), active))
    np.testing.assert_allclose(again, [0.5, 0.5, 0.0], rtol=1e-6)
    alone = np.asarray(restricted(ops.array([0.0, 1.0, 0.0]), active))
    np.testing.assert_allclose(alone, [0.5, 0, 0.5], rtol=1e-6)
