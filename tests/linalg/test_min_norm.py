import numpy as np
import pytest
from keras import ops
from scipy.optimize import nnls

from compiled import compiled
from nasty import SIZES, gramians, unit
from polytape.linalg.min_norm import min_norm_point

SOLVE = compiled(min_norm_point)


def solve(batch):
    return np.asarray(SOLVE(ops.array(batch), ops.ones(batch.shape[:-1], dtype="bool")), "float64")


@pytest.mark.parametrize("size", SIZES)
def test_duality_gap(size):
    names, batch = gramians(size)
    for name, gramian, w in zip(names, batch, solve(batch), strict=True):
        assert w.min() >= 0, name
        assert w.sum() == pytest.approx(1, abs=1e-5), name
        if np.diag(gramian).min() == 0:
            resting = np.diag(gramian) == 0
            np.testing.assert_allclose(w, resting / resting.sum(), rtol=1e-6, err_msg=name)
            continue
        cosines, norms = unit(gramian)
        # w is optimal if (G w)_i >= w'Gw, with equality where w_i > 0: in units of gradient i.
        y = norms * w / (norms * w).sum()
        pulls = cosines @ y
        value = y @ pulls / w.sum() * (norms * w).sum() / norms
        assert (value - pulls).max() <= 1e-5, name
        assert np.minimum(y, pulls - value).max() <= 1e-5, name


@pytest.mark.parametrize("size", [2, 8])
def test_no_longer_than_the_exact_solution(size):
    names, batch = gramians(size)
    for name, gramian, w in zip(names, batch, solve(batch), strict=True):
        gramian = gramian.astype("float64") / max(np.diag(gramian).max(), 1e-38)
        values, vectors = np.linalg.eigh(gramian)
        rows = vectors * np.sqrt(np.maximum(values, 0))
        exact, _ = nnls(np.vstack([rows.T, np.ones(size)]), np.eye(size + 1)[-1])
        exact = exact / exact.sum()
        length = np.sqrt(np.diag(gramian)) @ w
        assert w @ gramian @ w <= exact @ gramian @ exact + 1e-5 * length**2, name


def test_two_objectives_in_closed_form():
    for first, second, product in [(1.0, 4.0, 0.0), (1.0, 4.0, 1.5), (3.0, 2.0, -1.0)]:
        gramian = np.array([[first, product], [product, second]], "float32")
        share = np.clip((second - product) / (first + second - 2 * product), 0, 1)
        np.testing.assert_allclose(solve(gramian[None])[0], [share, 1 - share], atol=1e-5)


def test_inactive_objectives_weigh_nothing():
    gramian = ops.array(np.diag([1.0, 0.0, 4.0]).astype("float32"))
    w = SOLVE(gramian, ops.array([True, False, True]))
    np.testing.assert_allclose(np.asarray(w), [0.8, 0, 0.2], atol=1e-5)
    nobody = SOLVE(gramian, ops.zeros((3,), dtype="bool"))
    np.testing.assert_array_equal(np.asarray(nobody), 0)


def test_one_gramian_alone_as_in_a_batch():
    _, batch = gramians(3)
    alone = SOLVE(ops.array(batch[0]), ops.ones((3,), dtype="bool"))
    np.testing.assert_allclose(np.asarray(alone), solve(batch)[0], atol=1e-6)
