"""GLS against the derivative of the geometric mean."""

import numpy as np

from polytape.methods.gls import GLS
from stepping import each, slopes

RNG = np.random.default_rng(0)


def test_is_the_derivative_of_the_geometric_mean() -> None:
    losses = RNG.lognormal(sigma=4.0, size=(6, 3))
    wanted = slopes(lambda x: np.exp(np.mean(np.log(x))), losses)
    np.testing.assert_allclose(each(GLS(scale="paper"), losses), wanted, rtol=1e-5)


def test_many_losses_whose_product_no_number_holds() -> None:
    losses = np.stack([RNG.uniform(1, 2, 64) * 1e-18, RNG.uniform(1, 2, 64) * 1e18])
    wanted = np.exp(np.log(losses).mean(1, keepdims=True)) / losses
    np.testing.assert_allclose(each(GLS(), losses), wanted, rtol=1e-5)


def test_a_negative_loss_counts_by_its_size_and_zero_leaves_the_mean_to_the_others() -> None:
    found = each(GLS(scale="paper"), [[-1.0, 4.0, 0.0], [1e-37, 1e37, 1e37], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(found[0], [2 / 3, 0.5 / 3, 0], rtol=1e-6)
    assert np.isfinite(found).all()
    assert (found[2] == 0).all()
