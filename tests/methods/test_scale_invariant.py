"""ScaleInvariant against the derivative of a sum of logarithms."""

import numpy as np
import pytest

from polytape.methods.scale_invariant import ScaleInvariant
from stepping import each, slopes

LOSSES = np.random.default_rng(0).lognormal(sigma=6.0, size=(6, 3))


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_is_the_derivative_of_a_sum_of_logarithms(offset: float) -> None:
    method = ScaleInvariant(preference=(2.0, 0.5, 0.5), offset=offset)
    wanted = slopes(lambda x: np.sum(np.array([2, 0.5, 0.5]) * np.log(offset + x)), LOSSES)
    np.testing.assert_allclose(each(method, LOSSES), wanted, rtol=1e-5)


def test_a_negative_loss_counts_by_its_size_and_zero_weighs_zero() -> None:
    losses = np.array([[-0.5, 0.0, 4.0], [1e-42, 1e-37, 1e37]])
    found = each(ScaleInvariant(), losses)
    np.testing.assert_allclose(found, [[2, 0, 0.25], [0, 1e37, 1e-37]], rtol=1e-5)
    assert each(ScaleInvariant(offset=1.0), losses)[0].tolist() == pytest.approx([2 / 3, 1, 0.2])
