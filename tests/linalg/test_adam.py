"""Adam against its textbook in float64."""

from functools import cache

import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.linalg.adam import Moments, adam, no_moments

RATE = 0.05


@cache
def stepper():
    return compiled(lambda moments, gradient, active: adam(moments, gradient, RATE, active))


def run(gradients, active):
    moments = Moments(*map(ops.convert_to_tensor, no_moments(gradients.shape[1:])))
    steps = []
    for gradient, mask in zip(gradients, active, strict=True):
        step, moments = stepper()(moments, ops.array(np.float32(gradient)), ops.array(mask))
        steps.append(ops.convert_to_numpy(step))
    return np.array(steps), [ops.convert_to_numpy(part) for part in moments]


def textbook(gradients):
    """Steps of Algorithm 1 for one entry, epsilon zero."""
    m = v = 0.0
    for t, g in enumerate(np.float64(gradients), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        yield -RATE * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_every_entry_follows_the_textbook_over_the_steps_in_which_it_is_active(scale):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(40, 2, 3)) + np.array([1.0, 0.0, -3.0])
    active = rng.uniform(size=gradients.shape) < 0.7
    steps, (_, _, seen) = run(gradients * scale, active)
    assert (steps[~active] == 0).all()
    np.testing.assert_array_equal(seen, active.sum(0))
    for where in np.ndindex(gradients.shape[1:]):
        at = active[(slice(None), *where)]
        own = gradients[(at, *where)]
        wanted = list(textbook(own))
        np.testing.assert_allclose(steps[(at, *where)], wanted, rtol=2e-5, atol=1e-7)


def test_without_a_gradient_nothing_moves():
    steps, moments = run(np.zeros((3, 1, 2)), np.ones((3, 1, 2), bool))
    assert (steps == 0).all()
    assert np.isfinite(moments).all()
