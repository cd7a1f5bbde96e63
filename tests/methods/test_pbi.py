"""PBI against the derivative of its function."""

import numpy as np

from polytape.methods.pbi import PBI
from stepping import each, slopes

RAY = np.array([2.0, 1.0, 2.0]) / 3
IDEAL = np.array([-0.5, 0.5, 0.0])


def test_is_the_derivative_of_both_distances() -> None:
    def function(x: np.ndarray) -> complex:
        along = np.sum((x - IDEAL) * RAY)
        return along + 2.5 * np.sqrt(np.sum((x - IDEAL - along * RAY) ** 2))

    losses = np.random.default_rng(0).normal(size=(8, 3))
    method = PBI(penalty=2.5, preference=(2.0, 1.0, 2.0), ideal=tuple(IDEAL))
    wanted = np.sqrt(3) * slopes(function, losses)
    np.testing.assert_allclose(each(method, losses), wanted, rtol=1e-4, atol=1e-5)


def test_on_the_ray_there_is_no_way_back_to_it() -> None:
    sizes = np.array([1e-30, 0.7, 1e30, 0.0])[:, None]
    found = each(PBI(preference=(2.0, 1.0, 2.0)), sizes * RAY)
    np.testing.assert_allclose(found, np.tile(np.sqrt(3) * RAY, (4, 1)), rtol=1e-6)
