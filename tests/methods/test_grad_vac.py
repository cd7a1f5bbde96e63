"""GradVac against Algorithm 1 written as plain loops over rows, over several steps."""

import keras
import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.linalg.cosine import cosine_form
from polytape.methods.grad_vac import GradVac, vaccinate
from polytape.methods.pcgrad import PCGrad
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

pytestmark = pytest.mark.draws


def by_loops(rows: Array, targets: Array, order: Array, beta: float) -> Array:
    """Algorithm 1 on vectors, in float64: the direction; changes the targets."""
    total = np.zeros(rows.shape[1])
    for i, row in enumerate(rows):
        g = row.copy()
        for j in order[i]:
            if j == i:
                continue
            length, other = np.linalg.norm(g), np.linalg.norm(rows[j])
            phi, target = g @ rows[j] / (length * other), targets[i, j]
            if phi < target:
                turn = target * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - target**2)
                g = g + length * turn / (other * np.sqrt(1 - target**2)) * rows[j]
            targets[i, j] = (1 - beta) * target + beta * phi
        total += g
    return total


@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_matches_loops_over_several_steps(beta: float) -> None:
    rng = np.random.default_rng(0)
    meet = compiled(vaccinate)
    state, targets = ops.zeros((5, 5)), np.zeros((5, 5))
    common = rng.normal(size=6)
    for _ in range(8):
        rows = (common + rng.normal(size=(5, 6))) * rng.uniform(0.01, 100, size=(5, 1))
        order = rng.permuted(np.tile(np.arange(5), (5, 1)), axis=-1)
        form = cosine_form(ops.convert_to_tensor(np.float32(rows @ rows.T)))
        weights, state = meet(form, state, ops.convert_to_tensor(order), ops.array(beta))
        weights = ops.convert_to_numpy(weights)
        size = np.linalg.norm(rows, axis=1) @ weights
        right = by_loops(rows, targets, order, beta)
        np.testing.assert_allclose(weights @ rows, right, atol=2e-5 * size)
        np.testing.assert_allclose(ops.convert_to_numpy(state), targets, atol=1e-5)
        assert (weights > 1 - 1e-5).all()
    assert targets.max() > beta / 2


def test_turned_rows_are_as_similar_as_their_target() -> None:
    cosines = np.float32([[1.0, -0.3], [-0.3, 1.0]])
    form = cosine_form(ops.array(cosines * np.outer([2.0, 0.1], [2.0, 0.1]).astype("float32")))
    targets = ops.array([[0.0, 0.6], [-0.9, 0.0]])
    order = ops.convert_to_tensor(np.array([[0, 1], [0, 1]]))
    weights, after = vaccinate(form, targets, order, 0.5)
    extra = np.array([0.0, ops.convert_to_numpy(weights)[1] - 1])  # what row 0 took of row 1
    rows = np.array([2.0, 0.1])[:, None] * np.linalg.cholesky(np.float64(cosines))
    turned = rows[0] + extra @ rows
    reached = turned @ rows[1] / np.linalg.norm(turned) / np.linalg.norm(rows[1])
    assert reached == pytest.approx(0.6, rel=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(weights)[0], 1, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(after)[[0, 1], [1, 0]], [0.15, -0.6], rtol=1e-5)


def test_the_first_step_is_that_of_pcgrad() -> None:
    rows = np.random.default_rng(1).normal(size=(6, 4))
    found, right = (Trial(m, compiled).update(rows, np.ones(6)) for m in (GradVac(), PCGrad()))
    np.testing.assert_allclose(found.weights, right.weights, rtol=1e-4)


def test_an_inactive_objective_keeps_its_targets() -> None:
    trial = Trial(GradVac(beta=0.5), compiled)
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    _, state = trial.step(rows, np.ones(3), np.ones(3, bool), trial.start((3,)))
    before = ops.convert_to_numpy(state["targets"])
    active = np.array([True, True, False])
    _, state = trial.step(rows * active[:, None], np.ones(3), active, state)
    after = ops.convert_to_numpy(state["targets"])
    np.testing.assert_array_equal(after[2], before[2])
    np.testing.assert_array_equal(after[:, 2], before[:, 2])
    assert after[0, 1] > before[0, 1] > 0


def test_targets_near_one_stay_finite() -> None:
    trial, active = Trial(GradVac(beta=1.0), compiled), np.ones(16, bool)
    alike, apart = np.ones((16, 1)) * np.eye(16)[:1], np.eye(16) - 1 / 15 * (1 - np.eye(16))
    state = trial.start((16,))
    for rows in (alike, apart, apart - 2 * alike, alike, -apart):
        weights, state = trial.step(rows, np.ones(16), active, state)
        assert np.isfinite(weights).all()
        assert np.isfinite(ops.convert_to_numpy(state["targets"])).all()


@pytest.mark.engine
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="TorchJD runs on PyTorch")
def test_two_objectives_agree_with_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    import torch

    rng = np.random.default_rng(4)
    theirs = aggregation.GradVac(beta=0.3)
    trial = Trial(GradVac(beta=0.3), compiled)
    state = trial.start((2,))
    for _ in range(5):
        rows = rng.normal(size=(2, 3))
        weights, state = trial.step(rows, np.ones(2), np.ones(2, bool), state)
        right = theirs(torch.tensor(rows)).numpy()
        np.testing.assert_allclose(trial.along(rows, weights).direction, right, atol=1e-5)
