"""COSMOS against the derivative of its function."""

import numpy as np

from polytape.methods.cosmos import COSMOS
from stepping import each, slopes

PREFERENCE = np.array([0.5, 0.25, 0.25])


def test_is_the_derivative_of_sum_and_cosine() -> None:
    def function(x: np.ndarray) -> complex:
        total = np.sum(PREFERENCE * x)
        return total - 0.8 * total / np.sqrt(np.sum(x * x) * np.sum(PREFERENCE**2))

    losses = np.random.default_rng(0).normal(size=(8, 3)) * np.logspace(-3, 3, 8)[:, None]
    method = COSMOS(penalty=0.8, preference=(2.0, 1.0, 1.0), scale="paper")
    wanted = slopes(function, losses)
    allowed = 1e-5 * np.abs(wanted).max(1, keepdims=True)
    assert (np.abs(each(method, losses) - wanted) <= allowed).all()


def test_on_the_ray_and_at_zero_it_is_the_weighted_sum_however_small_the_losses() -> None:
    sizes = np.array([1e-30, 1e-8, 3.0, 1e20, 0.0])[:, None]
    found = each(COSMOS(preference=(2.0, 1.0, 1.0)), sizes * PREFERENCE)
    np.testing.assert_allclose(found, np.tile(3 * PREFERENCE, (5, 1)), rtol=1e-6)
