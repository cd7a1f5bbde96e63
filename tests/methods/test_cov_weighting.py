"""CoV weighting against means and variances of the whole history."""

import numpy as np
import pytest

from histories import Array, history, wandering
from polytape.methods.cov_weighting import CoVWeighting


def shares(count: int, decay: float | None) -> Array:
    """The share of each of `count` values in the statistics, oldest first."""
    if decay is None:
        return np.full(count, 1 / count)
    found = (1 - decay) * decay ** np.arange(count - 1, -1, -1.0)
    found[0] = decay ** (count - 1)
    return found


def by_history(losses: Array, active: Array, decay: float | None) -> Array:
    weights = []
    for step in range(len(losses)):
        spread = np.full(losses.shape[1], np.nan)
        for t in range(losses.shape[1]):
            seen = losses[:step, t][active[:step, t]]
            if len(seen) < 2:
                continue
            means = [shares(n, decay) @ seen[:n] for n in range(1, len(seen))]
            ratios = np.array([1.0, *(seen[1:] / means)])
            share = shares(len(ratios), decay)
            mean = share @ ratios
            spread[t] = np.sqrt(share @ (ratios - mean) ** 2 + 1e-8) / mean
        spread[~active[step]] = np.nan
        usual = 1.0 if np.isnan(spread).all() else np.nanmean(spread)
        spread = active[step] * np.where(np.isnan(spread), usual, spread)
        weights.append(active[step].sum() * spread / spread.sum())
    return np.array(weights)


@pytest.mark.parametrize("decay", [None, 0.8])
def test_matches_statistics_of_the_whole_history(decay: float | None) -> None:
    losses, active = wandering(14, 4)
    found = history(CoVWeighting(decay=decay), losses, active)
    np.testing.assert_allclose(found, by_history(losses, active, decay), rtol=2e-4)
    assert (found[:2].max(1) == 1).all()
    assert np.ptp(found[-1]) > 0.1


def test_small_variation_late_in_training_is_not_lost() -> None:
    rng = np.random.default_rng(0)
    losses = 100.0 + rng.normal(size=(300, 2)) * np.array([1.0, 2.0])
    active = np.ones(losses.shape, bool)
    found = history(CoVWeighting(), losses)[-1]
    np.testing.assert_allclose(found, by_history(losses, active, None)[-1], rtol=1e-2)


def test_constant_losses_weigh_equal() -> None:
    found = history(CoVWeighting(), np.tile([3.0, 1e-4, 1e4], (6, 1)))
    np.testing.assert_allclose(found, 1, rtol=1e-5)
