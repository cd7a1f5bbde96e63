"""PCGrad against Algorithm 1 written as plain loops over rows."""

import keras
import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.contract import Seed
from polytape.linalg.cosine import cosine_form
from polytape.methods.pcgrad import PCGrad, project, random_order
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

pytestmark = pytest.mark.draws

TRIAL = Trial(PCGrad(), compiled)


def by_loops(rows: Array, order: Array) -> Array:
    """Algorithm 1 on vectors, in float64: the direction."""
    total = np.zeros(rows.shape[1])
    for i, row in enumerate(rows):
        left = row.copy()
        for j in order[i]:
            if j != i and left @ rows[j] < 0:
                left -= (left @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += left
    return total


def test_matches_loops_for_given_orders() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 5, 6)) * rng.uniform(0.01, 100, size=(20, 5, 1))
    order = rng.permuted(np.tile(np.arange(5), (20, 5, 1)), axis=-1)
    gramian = ops.convert_to_tensor(np.float32(rows @ rows.swapaxes(-1, -2)))
    form = cosine_form(gramian)
    weights = compiled(project)(form.cosines, form.norms, ops.convert_to_tensor(order))
    found = np.einsum("bt,btn->bn", ops.convert_to_numpy(weights), rows)
    right = np.stack([by_loops(r, o) for r, o in zip(rows, order, strict=True)])
    size = np.linalg.norm(rows, axis=-1).sum(-1)
    assert np.abs(found - right).max(-1) == pytest.approx(0, abs=1e-5 * size.max())
    assert (ops.convert_to_numpy(weights) > 1 - 1e-5).all()


@pytest.mark.parametrize("conflict", [-0.9, -0.2, 0.4])
def test_two_rows_have_a_closed_form(conflict: float) -> None:
    rows = np.array([[2.0, 0.0], [5 * conflict, 5 * np.sqrt(1 - conflict**2)]])
    gramian = rows @ rows.T
    weights = TRIAL.update(rows, np.ones(2)).weights
    right = 1 - min(0.0, gramian[0, 1]) / np.diag(gramian)
    np.testing.assert_allclose(weights, right, rtol=1e-5)


def test_an_inactive_objective_leaves_two_with_their_closed_form() -> None:
    rows = np.array([[2.0, 0.0], [-1.0, -1.0], [-3.0, 1.0]])
    weights = TRIAL.update(rows, np.ones(3), np.array([True, False, True])).weights
    np.testing.assert_allclose(weights, [1 + 6 / 4, 0, 1 + 6 / 10], rtol=1e-5)


def test_a_zero_row_leaves_two_with_their_closed_form() -> None:
    rows = np.array([[2.0, 0.0], [0.0, 0.0], [-3.0, 1.0]])
    weights = TRIAL.update(rows, np.ones(3)).weights
    np.testing.assert_allclose(weights, [1 + 6 / 4, 1, 1 + 6 / 10], rtol=1e-5)


def test_order_is_a_fresh_permutation_for_each_row() -> None:
    seed = Seed(keras.random.SeedGenerator(3).next())
    order = ops.convert_to_numpy(random_order((2, 6, 6), seed))
    assert (np.sort(order, axis=-1) == np.arange(6)).all()
    assert len(np.unique(order.reshape(-1, 6), axis=0)) > 6
    again = ops.convert_to_numpy(random_order((2, 6, 6), seed.shifted(1)))
    assert (order != again).any()
