"""GradNorm against a plain loop in float64, and at its fixed point."""

import keras
import numpy as np
import pytest

import polytape as pt
from polytape.methods.grad_norm import GradNorm
from polytape.testing.matrices import Array
from stepping import Adam, run


def by_loop(losses: Array, norms: Array, active: Array, alpha: float, rate: float) -> Array:
    """Equation 2 and Algorithm 1 of the paper, each step multiplied onto the weights."""
    count = losses.shape[1]
    logs, adam, found = np.zeros(count), Adam(count, rate), []
    start = [losses[np.argmax(active[:, t]), t] for t in range(count)]
    for loss, norm, mask in zip(losses, norms, active, strict=True):
        weights = mask * np.exp(logs)
        weights *= mask.sum() / weights.sum()
        found.append(weights)
        size = weights * norm
        ratio = loss / start
        target = size[mask].mean() * (ratio / ratio[mask].mean()) ** alpha
        logs = logs + adam.step(np.sign(size - target) * norm, mask)
    return np.array(found)


def test_follows_a_plain_loop_with_labels_missing() -> None:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(sigma=0.5, size=(40, 3)) * np.array([1e-3, 1.0, 1e3])
    norms = rng.lognormal(sigma=0.5, size=(40, 3)) * np.array([0.1, 1.0, 10.0])
    active = rng.uniform(size=losses.shape) < 0.75
    active[:, 1] = True
    found = run(GradNorm(alpha=0.8, rate=0.1), losses, active, norms)
    np.testing.assert_allclose(found, by_loop(losses, norms, active, 0.8, 0.1), rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_norms_end_in_proportion_to_a_power_of_the_inverse_training_rate(alpha: float) -> None:
    norms, left = np.array([1e-2, 1.0, 30.0]), np.array([1.0, 0.8, 0.6])
    losses = np.concatenate([np.ones((1, 3)), np.tile(left, (600, 1))])
    found = run(GradNorm(alpha=alpha, rate=0.02), losses, norms=norms)
    np.testing.assert_allclose(found.sum(1), 3, rtol=1e-5)
    # The sum of absolute values has a kink at its least, about which the weights go on swinging.
    size = found[-150:].mean(0) * norms / left**alpha
    np.testing.assert_allclose(size, size.mean(), rtol=0.05)


def test_equal_objectives_a_zero_row_and_losses_without_a_ratio_stay_put() -> None:
    losses = np.tile([0.0, -1.0, 2.0, 3.0, 0.1, 0.7, 5.0], (20, 1))
    lengths = np.random.default_rng(0).uniform(size=(20, 1))
    found = run(GradNorm(), losses, norms=lengths * np.array([1, 1, 1, 1, 1, 1, 0]))
    np.testing.assert_allclose(found, 1, rtol=1e-5)


@pytest.mark.engine
def test_every_scope_has_weights_of_its_own() -> None:
    one, two = keras.Variable([1.0]), keras.Variable([1.0])
    combiner = pt.Combiner(pt.PerVariable(pt.GradNorm(rate=0.5)))
    for _ in range(2):
        gradients = pt.gradients(
            lambda: {"a": one[0] + 10 * two[0], "b": 10 * one[0] + two[0]}, [one, two]
        )
        update = [float(keras.ops.convert_to_numpy(part)[0]) for part in combiner(gradients)]
    up, down = 2 / (1 + np.exp(-1.0)), 2 / (1 + np.exp(1.0))
    np.testing.assert_allclose(update, up + 10 * down, rtol=1e-5)
