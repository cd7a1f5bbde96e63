"""UW against a plain loop in float64."""

import numpy as np

from polytape.methods.uw import UW
from stepping import Adam, run


def test_follows_a_plain_loop_with_labels_missing() -> None:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(size=(30, 3)) * np.array([1e-2, 1.0, 50.0])
    active = rng.uniform(size=losses.shape) < 0.7
    s, adam, wanted = np.zeros(3), Adam(3, 0.1), []
    for loss, mask in zip(losses, active, strict=True):
        wanted.append(mask * np.exp(-s) / 2)
        s = s + adam.step((1 - np.exp(-s) * loss) / 2, mask)
    np.testing.assert_allclose(run(UW(rate=0.1), losses, active), wanted, rtol=1e-4)


def test_steady_losses_end_with_half_their_reciprocal() -> None:
    losses = np.array([0.05, 1.0, 8.0])
    found = run(UW(rate=0.05), np.tile(losses, (300, 1)))
    np.testing.assert_allclose(found[-1], 0.5 / losses, rtol=0.02)


def test_without_a_best_variance_the_weight_grows_to_its_limit() -> None:
    found = run(UW(rate=1.0), np.tile([0.0, -1e30, 1e30], (100, 1)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[-1, :2], np.exp(40.0) / 2, rtol=1e-3)
