"""LBTW against a plain loop over periods."""

import numpy as np

from histories import Array, history, wandering
from polytape.methods.lbtw import LBTW


def by_loop(losses: Array, active: Array, alpha: float, steps: int) -> Array:
    weights = []
    for start in range(0, len(losses), steps):
        first = np.full(losses.shape[1], np.nan)
        for step in range(start, min(start + steps, len(losses))):
            first = np.where(np.isnan(first) & active[step], losses[step], first)
            power = np.where(active[step], (losses[step] / first) ** alpha, 0.0)
            weights.append(active[step].sum() * power / power.sum())
    return np.array(weights)


def test_matches_a_plain_loop_with_labels_missing() -> None:
    losses, active = wandering(11, 3)
    for alpha in (0.5, 3.0):
        found = history(LBTW(alpha=alpha, steps=4), losses, active)
        np.testing.assert_allclose(found, by_loop(losses, active, alpha, 4), rtol=1e-5)
        assert np.ptp(found[-1]) > 0.1


def test_alpha_zero_is_the_sum() -> None:
    assert (history(LBTW(alpha=0.0), wandering(4, 3)[0]) == 1).all()


def test_a_period_begins_with_the_first_positive_loss() -> None:
    losses = np.array([[0.0, 1.0], [-2.0, 1.0], [4.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    found = history(LBTW(alpha=0.5), losses)
    right = [[1, 1], [1, 1], [1, 1], [2 / 3, 4 / 3], [0, 2], [1, 1]]
    np.testing.assert_allclose(found, right, rtol=1e-6)
