"""MinMax against a plain loop in float64, and at a saddle point."""

import numpy as np

from compiled import compiled
from polytape.methods.min_max import MinMax
from polytape.testing.trials import Trial
from stepping import Adam, run


def test_follows_a_plain_loop_with_labels_missing_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(30, 3)) + np.array([0.0, 1.0, 2.0])
    active = rng.uniform(size=losses.shape) < 0.7
    active[:, 0] = True
    s, adam, wanted = np.zeros(3), Adam(3, 0.1), []
    for loss, mask in zip(losses, active, strict=True):
        share = mask * np.exp(s) / np.sum(mask * np.exp(s))
        wanted.append(mask.sum() * share)
        jacobian = np.diag(share) - np.outer(share, share)
        s = s + adam.step(-jacobian @ loss, mask)
    for scale in (1e-25, 1.0, 1e25):
        found = run(MinMax(rate=0.1), losses * scale, active)
        np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_the_saddle_point_of_two_parabolas_has_equal_losses() -> None:
    trial = Trial(MinMax(rate=0.01), compiled)
    x, state, seen = 0.0, trial.start((2,)), []
    for _ in range(600):  # losses (x - 1)^2 and 4 (x + 1)^2 are equal at x = -1/3
        losses = np.array([(x - 1) ** 2, 4 * (x + 1) ** 2])
        weights, state = trial.step(np.zeros((2, 1)), losses, np.ones(2, bool), state)
        x -= 0.02 * float(weights @ [2 * (x - 1), 8 * (x + 1)])
        seen.append(x)
    assert abs(np.mean(seen[300:]) + 1 / 3) < 0.01
    assert abs(np.mean(seen[:20]) + 1 / 3) > 0.1
