"""Functions of singular matrices, against NumPy in float64."""

import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.linalg.simplex import softmax
from polytape.linalg.spectral import pseudo_solve


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_pseudo_solve_matches_the_pseudo_inverse(size: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 5, 9))
    rows[1, 2] = rows[1, 0]
    rows[2, 1] = 0
    rows[3] = rows[3, :1]
    matrices = rows @ rows.swapaxes(-1, -2)
    vectors = rng.normal(size=(6, 5))
    given = [ops.convert_to_tensor(np.float32(value)) for value in (matrices * size, vectors)]
    found = ops.convert_to_numpy(compiled(pseudo_solve)(*given)).astype("float64") * size
    right = np.einsum("bij,bj->bi", np.linalg.pinv(matrices, rcond=1e-6, hermitian=True), vectors)
    np.testing.assert_allclose(found, right, rtol=2e-3, atol=2e-4)


def test_a_vector_outside_the_range_gives_zero_not_noise() -> None:
    matrix = ops.convert_to_tensor(np.float32([[1, -1], [-1, 1]]))
    assert (ops.convert_to_numpy(pseudo_solve(matrix, ops.ones(2))) == 0).all()
    assert (ops.convert_to_numpy(pseudo_solve(ops.zeros((2, 2)), ops.ones(2))) == 0).all()


def test_many_rows_of_zeros_do_not_keep_the_solver_from_converging() -> None:
    """Of these twenty some made LAPACK give up, or err."""
    rng = np.random.default_rng(0)
    solve = compiled(pseudo_solve)
    for _ in range(20):
        place = rng.choice(128, 8, replace=False)
        rows = np.zeros((128, 4))
        rows[place] = rng.normal(size=(8, 1)) * rng.normal(size=4)
        rows *= np.exp(2 * rng.normal(size=(128, 1)))
        gramian, inside = np.float32(rows @ rows.T), np.zeros(128, "float32")
        inside[place] = 1.0
        found = solve(ops.convert_to_tensor(gramian), ops.convert_to_tensor(inside))
        found = np.float64(ops.convert_to_numpy(found))
        right = np.linalg.pinv(rows @ rows.T, rcond=1e-6, hermitian=True) @ inside
        np.testing.assert_allclose(found, right, atol=1e-3 * np.linalg.norm(right))


def test_softmax_is_masked_and_stable() -> None:
    logits = ops.convert_to_tensor(np.float32([[1e30, 0, 1e30], [1, 1, 1], [5, 5, 5]]))
    active = np.array([[True, True, True], [True, False, True], [False, False, False]])
    found = ops.convert_to_numpy(softmax(logits, ops.convert_to_tensor(active)))
    np.testing.assert_allclose(found, [[0.5, 0, 0.5], [0.5, 0, 0.5], [0, 0, 0]])
