"""ResNorm against a plain loop in float64."""

import numpy as np

from polytape.methods.res_norm import ResNorm
from stepping import Adam, run


def test_follows_a_plain_loop_with_labels_missing() -> None:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(sigma=0.5, size=(40, 3)) * np.array([0.1, 1.0, 10.0])
    active = rng.uniform(size=losses.shape) < 0.75
    active[:, 1] = True
    start = [losses[np.argmax(active[:, t]), t] for t in range(3)]
    logs, adam, wanted = np.zeros(3), Adam(3, 0.1), []
    for loss, mask in zip(losses, active, strict=True):
        weights = mask * np.exp(logs)
        weights *= mask.sum() / weights.sum()
        wanted.append(weights)
        ratio = loss / start
        target = (weights * loss)[mask].mean() * (ratio / ratio[mask].mean()) ** 0.7
        logs = logs + adam.step(np.sign(weights * loss - target) * loss, mask)
    found = run(ResNorm(alpha=0.7, rate=0.1), losses, active)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_steady_losses_end_with_weights_in_inverse_proportion() -> None:
    losses = np.array([2.0, 1.0, 0.5])
    weights = run(ResNorm(rate=0.02), np.tile(losses, (400, 1)))[-1]
    np.testing.assert_allclose(weights * losses, np.mean(weights * losses), rtol=0.1)


def test_zero_and_negative_losses_stay_finite() -> None:
    found = run(ResNorm(rate=0.5), np.array([[0.0, -1.0, 2.0], [1.0, 3.0, -2.0], [-1.0, 0.0, 1.0]]))
    assert np.isfinite(found).all()
    assert found[1, 0] > found[1, 2]
