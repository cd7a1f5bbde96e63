import numpy as np
import pytest
from keras import ops
from scipy.optimize import nnls

from compiled import compiled
from nasty import breach, gramians, unit
from polytape.linalg import nonneg
from polytape.linalg.solve import ridge, solve_spd, with_ridge


def ridged(matrix, linear):
    return nonneg.nonneg_qp(with_ridge(matrix), linear)


SOLVE = compiled(ridged)


def problems(size):
    """Cosine matrices with four right-hand sides each: names, (N, 4, T, T), (N, 4, T)."""
    names, batch = gramians(size)
    cosines = np.stack([unit(gramian)[0] for gramian in batch]).astype("float32")
    rng = np.random.default_rng(0)
    linear = np.stack(
        [
            -cosines[:, 0],
            -cosines[:, -1],
            np.ones(cosines.shape[:2]),
            1e9 * rng.normal(size=cosines.shape[:2]),
        ],
        axis=1,
    ).astype("float32")
    return names, np.repeat(cosines[:, None], 4, axis=1), linear


@pytest.mark.parametrize("size", [1, 3, 8, 64])
def test_conditions_of_optimality(size):
    names, matrix, linear = problems(size)
    solved = np.asarray(SOLVE(ops.array(matrix), ops.array(linear)), "float64")
    for index in np.ndindex(linear.shape[:2]):
        y, b = solved[index], linear[index].astype("float64")
        scale = y.sum() + np.abs(b).max()
        assert breach(matrix[index].astype("float64"), b, y) <= 1e-5 * scale, names[index[0]]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_agrees_with_least_squares_in_double_precision(size):
    names, matrix, linear = problems(size)
    solved = np.asarray(SOLVE(ops.array(matrix), ops.array(linear)), "float64")
    for index in np.ndindex(linear.shape[:2]):
        b = linear[index].astype("float64")
        convex = matrix[index].astype("float64") + ridge(size) * np.eye(size)
        values, vectors = np.linalg.eigh(convex)
        root = np.sqrt(np.maximum(values, 1e-9))
        exact, _ = nnls((vectors * root).T, vectors.T @ b / root)
        if values[0] > 1e-5 * values[-1]:
            gap = np.abs(solved[index] - exact).max()
            assert gap <= 1e-6 * values[-1] / values[0] * exact.max() + 1e-12, names[index[0]]
        scale = (exact.sum() + np.abs(b).max()) ** 2
        assert 0.5 * solved[index] @ convex @ solved[index] - b @ solved[index] <= (
            0.5 * exact @ convex @ exact - b @ exact + 1e-5 * scale
        ), names[index[0]]


@pytest.mark.parametrize("size", [3, 32])
def test_pivoting_alone_settles_what_is_not_nearly_singular(size):
    names, matrix, linear = problems(size)
    linear = linear / np.maximum(np.abs(linear).max(axis=-1, keepdims=True), 1e-30)

    def residual(matrix, linear):
        return nonneg._pivot(with_ridge(matrix), linear)[1]

    left = np.asarray(compiled(residual)(ops.array(matrix), ops.array(linear)))[..., 0]
    unsettled = {name for name, row in zip(names, left, strict=True) if row.max() > 1e-6}
    singular = ("half rank", "condition 1e6", "square")
    assert [name for name in unsettled if not name.endswith(singular)] == []


def test_interior_point_method_alone():
    names, matrix, linear = problems(8)
    linear = linear / np.abs(linear).max(axis=-1, keepdims=True)

    def solve(matrix, linear):
        nothing = ops.zeros_like(linear), ops.full_like(linear[..., :1], 1e30)
        return nonneg._interior(with_ridge(matrix), linear, nothing)

    solved = np.asarray(compiled(solve)(ops.array(matrix), ops.array(linear)), "float64")
    for index in np.ndindex(linear.shape[:2]):
        y, b = solved[index], linear[index].astype("float64")
        gap = breach(matrix[index].astype("float64"), b, y)
        assert gap <= 1e-5 * (y.sum() + 1), names[index[0]]


def test_a_problem_that_is_not_finite_leaves_the_others_alone():
    matrix = np.tile(np.eye(3, dtype="float32"), (2, 1, 1))
    matrix[0, 0, 0] = np.nan
    solved = np.asarray(SOLVE(ops.array(matrix), ops.ones((2, 3))))
    np.testing.assert_allclose(solved[1], 1, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 32])
def test_linear_systems_are_solved_backward_stably(size):
    _, matrix, linear = problems(size)
    matrix = np.asarray(with_ridge(ops.array(matrix)))
    x = np.asarray(compiled(solve_spd)(ops.array(matrix), ops.array(linear)), "float64")
    residual = np.einsum("...ij,...j->...i", matrix.astype("float64"), x) - linear
    scale = np.abs(x).sum(axis=-1) + np.abs(linear).max(axis=-1)
    assert (np.abs(residual).max(axis=-1) / scale).max() < 1e-6


@pytest.mark.parametrize("size", [3, 64])
def test_the_ridge_grows_only_where_rounding_does_not_explain_a_negative_eigenvalue(size):
    _, matrix, _ = problems(size)
    found = np.asarray(with_ridge(ops.array(matrix[:, 0]))) - matrix[:, 0]
    np.testing.assert_allclose(
        found, ridge(size) * np.broadcast_to(np.eye(size), found.shape), atol=1e-7
    )
    for noise in (1e-5, 1e-3, 1e-1):
        rows = np.random.default_rng(0).normal(size=(size, 1))
        cosines = np.sign(rows @ rows.T) * (1 - noise * (1 - np.eye(size)))
        cosines[0, 1:] = cosines[1:, 0] = np.sign(rows[0] * rows[1:, 0])
        convex = np.asarray(with_ridge(ops.array(cosines.astype("float32"))), "float64")
        assert 0 < np.linalg.eigvalsh(convex)[0] < 40 * noise * size


def test_tensorflow_without_xla_and_plain_calls_agree():
    _, matrix, linear = problems(3)
    expected = np.asarray(SOLVE(ops.array(matrix), ops.array(linear)))
    scale = np.abs(expected).max(axis=-1, keepdims=True) + 1e-30
    for solve in (compiled(ridged, xla=False), ridged):
        found = np.asarray(solve(ops.array(matrix), ops.array(linear)))
        pulls = np.einsum("...ij,...j->...i", matrix, found - expected)
        np.testing.assert_allclose(pulls / scale, 0, atol=1e-5)
