"""RLW: where the weights lie, and how they are distributed."""

import numpy as np
import pytest

from compiled import compiled
from polytape.methods.mean import Mean
from polytape.methods.random_weights import RandomWeights
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

pytestmark = pytest.mark.draws

DRAWS = 20_000


def draw(method: RandomWeights, active: Array) -> Array:
    blocks = (DRAWS, len(active))
    trial = Trial(method, compiled)
    rows, losses = np.zeros((*blocks, 1)), np.zeros(blocks)
    weights, _ = trial.step(rows, losses, np.broadcast_to(active, blocks).copy(), ())
    return weights


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_weights_lie_on_the_simplex_of_active_objectives(distribution: str) -> None:
    active = np.array([True, True, False, True])
    weights = draw(RandomWeights(distribution=distribution, scale="paper"), active)
    assert (weights[:, 2] == 0).all()
    assert (weights[:, active] > 0).mean() > 0.9999
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.mean(0), active / 3, atol=0.01)


def test_dirichlet_has_the_variance_of_the_uniform_simplex() -> None:
    weights = draw(RandomWeights(distribution="dirichlet", scale="paper"), np.ones(3, bool))
    np.testing.assert_allclose(weights.var(0), 2 / (9 * 4), rtol=0.05)


def test_normal_is_a_softmax_of_standard_normal_numbers() -> None:
    weights = draw(RandomWeights(), np.ones(3, bool))
    np.testing.assert_allclose(weights.sum(1), 3, rtol=1e-5)
    differences = np.log(weights[:, 0]) - np.log(weights[:, 1])
    np.testing.assert_allclose(differences.var(), 2.0, rtol=0.05)


def test_mean_counts_active_objectives_only() -> None:
    found = Trial(Mean()).update(np.eye(3), np.ones(3), np.array([True, False, True]))
    np.testing.assert_allclose(found.weights, [0.5, 0, 0.5])
