"""The EnCodec balancer against sums over the whole history."""

import numpy as np

from histories import Array, history, wandering
from polytape.methods.encodec_balancer import EncodecBalancer


def by_history(lengths: Array, active: Array, share: Array, norm: float, decay: float) -> Array:
    weights = []
    for step, mask in enumerate(active):
        averages = np.ones(lengths.shape[1])
        for t in np.flatnonzero(mask):
            seen = lengths[: step + 1, t][active[: step + 1, t]]
            averages[t] = np.average(seen, weights=decay ** np.arange(len(seen))[::-1])
        weights.append(mask * norm * share / share[mask].sum() / averages)
    return np.array(weights)


def test_matches_sums_over_the_whole_history_with_labels_missing() -> None:
    lengths, active = wandering(9, 3)
    rows = np.random.default_rng(1).normal(size=(9, 3, 5))
    rows *= (lengths * active / np.linalg.norm(rows, axis=2))[..., None]
    share = np.array([2.0, 1.0, 5.0])
    method = EncodecBalancer((2.0, 1.0, 5.0), norm=3.0, decay=0.9)
    found = history(method, lengths, active, rows)
    np.testing.assert_allclose(found, by_history(lengths, active, share, 3.0, 0.9), rtol=1e-5)


def test_one_long_gradient_is_bounded() -> None:
    lengths = np.ones((50, 2))
    lengths[-1, 0] = 1e6
    rows = lengths[..., None] * np.eye(2)
    found = history(EncodecBalancer(decay=0.9), lengths, rows=rows)
    assert 0.5 * 9 < found[-1, 0] * 1e6 <= 0.5 * 10 * 1.1
    np.testing.assert_allclose(found[:-1], 0.5, rtol=1e-5)
