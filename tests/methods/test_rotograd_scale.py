"""RotoGrad's scaling against a plain loop."""

import numpy as np

from histories import Array, history, wandering
from polytape.methods.rotograd_scale import RotoGradScale


def by_loop(lengths: Array, active: Array, burn_in: int) -> Array:
    first, seen, weights = np.ones(lengths.shape[1]), np.zeros(lengths.shape[1]), []
    for length, mask in zip(lengths, active, strict=True):
        first = np.where(mask & ((seen == 0) | (seen == burn_in)), length, first)
        seen = seen + mask
        lag = mask * length / first
        weights.append(mask * (lag @ length) / lag.sum() / length)
    return np.array(weights)


def test_matches_a_plain_loop_with_labels_missing() -> None:
    lengths, active = wandering(9, 3)
    rows = np.random.default_rng(1).normal(size=(9, 3, 5))
    rows *= (lengths * active / np.linalg.norm(rows, axis=2))[..., None]
    for burn_in in (0, 3):
        found = history(RotoGradScale(burn_in), lengths, active, rows)
        np.testing.assert_allclose(found, by_loop(lengths, active, burn_in), rtol=1e-4)
    slow = by_loop(lengths, active, 0)
    assert np.abs(found / np.where(active, slow, 1) - active).max() > 0.01


def test_weighted_rows_have_one_length_between_the_shortest_and_the_longest() -> None:
    lengths = wandering(6, 4)[0]
    found = history(RotoGradScale(), lengths, rows=lengths[..., None] * np.eye(4))
    common = found * lengths
    np.testing.assert_allclose(common, common[:, :1] * np.ones(4), rtol=1e-5)
    assert (common[:, 0] > lengths.min(1)).all()
    assert (common[:, 0] < lengths.max(1)).all()
