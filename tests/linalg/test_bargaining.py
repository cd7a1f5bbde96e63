from functools import partial

import numpy as np
import pytest
from keras import ops
from scipy.optimize import root

from compiled import compiled
from nasty import SIZES, gramians, unit
from polytape.linalg.bargaining import bargain
from polytape.linalg.solve import ridge

ALPHAS = (0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 8.0, 100.0, 1e30)
SOLVE = {alpha: compiled(partial(bargain, alpha=alpha)) for alpha in ALPHAS}
CASES = [(alpha, 8) for alpha in ALPHAS] + [(alpha, size) for alpha in (1.0, 2.0) for size in SIZES]
FLOOR = 1e-8  # of the largest entry: those below it are lifted to it
TOLERANCE = {0.01: 5e-5, 1e30: 2e-3}  # 1e-5 for the others


def solve(batch, alpha):
    active = ops.ones(batch.shape[:-1], dtype="bool")
    return np.asarray(SOLVE[alpha](ops.array(batch), active), "float64")


def shortfall(gramian, a, alpha):
    """By how much gains differ from those demanded, at worst, in units of their parts."""
    alive = np.diag(gramian) > 0
    cosines, norms = (part[alive] for part in unit(gramian))
    matrix = cosines[:, alive] + ridge(len(gramian)) * np.eye(alive.sum())
    # In logarithms, as powers of 100 leave float64.
    beta, demand = norms * a[alive], np.exp(-np.log(a[alive]) / alpha - np.log(norms))
    excess = (matrix @ beta - demand) / (np.abs(matrix) @ beta)
    lifted = beta <= 1.01 * FLOOR * beta.max()
    return np.where(lifted, -excess, np.abs(excess)).max()


@pytest.mark.parametrize(("alpha", "size"), CASES)
def test_every_gain_is_as_demanded(alpha, size):
    names, batch = gramians(size)
    for name, gramian, a in zip(names, batch, solve(batch, alpha), strict=True):
        alive = np.diag(gramian) > 0
        np.testing.assert_array_equal(a > 0, alive, err_msg=name)
        if not alive.any():
            continue
        assert shortfall(gramian, a, alpha) <= TOLERANCE.get(alpha, 1e-5), name


@pytest.mark.parametrize("alpha", ALPHAS)
def test_norms_from_one_end_of_float32_to_the_other(alpha):
    """Every alpha: gains as demanded, where one over the norms would overflow if squared."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(20, 4, 8))
    norms = 10.0 ** rng.uniform(-12, 12, size=(20, 4, 1))
    rows *= norms / np.linalg.norm(rows, axis=2, keepdims=True)
    batch = np.einsum("bin,bjn->bij", rows, rows).astype("float32")
    for gramian, a in zip(batch, solve(batch, alpha), strict=True):
        assert shortfall(gramian, a, alpha) <= TOLERANCE.get(alpha, 1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_agrees_with_a_root_in_double_precision(alpha):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(5, 4, 9)) * rng.uniform(0.5, 2, size=(5, 4, 1))
    batch = np.einsum("bin,bjn->bij", rows, rows)
    for gramian, a in zip(batch, solve(batch.astype("float32"), alpha), strict=True):
        exact = root(
            lambda t, g=gramian: np.log(np.maximum(g @ np.exp(t), 1e-9)) + t / alpha,
            np.log(a),
            tol=1e-12,
        )
        assert exact.success
        np.testing.assert_allclose(a, np.exp(exact.x), rtol=2e-5)


def test_two_objectives_in_closed_form():
    norms, cosine = np.array([2.0, 0.01]), -0.6
    gramian = np.outer(norms, norms) * [[1, cosine], [cosine, 1]]
    expected = 1 / (norms * np.sqrt(1 + cosine))
    np.testing.assert_allclose(solve(gramian[None].astype("float32"), 1.0)[0], expected, rtol=1e-5)


def test_bargaining_powers():
    norms, power = np.array([2.0, 0.01, 5.0]), np.array([3.0, 1.0, 0.25])
    active = ops.ones((3,), dtype="bool")
    gramian = ops.array(np.diag(norms**2).astype("float32"))
    share = ops.array(power.astype("float32"))
    a = compiled(partial(bargain, alpha=2.0))(gramian, active, share=share)
    np.testing.assert_allclose(np.asarray(a), np.cbrt(power / norms**4), rtol=1e-5)


def test_inactive_objectives_weigh_nothing():
    gramian = ops.array([[4.0, 1.0], [1.0, 1.0]])
    a = SOLVE[1.0](gramian, ops.array([True, False]))
    np.testing.assert_allclose(np.asarray(a), [0.5, 0.0], rtol=1e-5)
