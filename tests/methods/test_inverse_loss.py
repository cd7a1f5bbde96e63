"""InverseLoss against a plain loop."""

import numpy as np

from polytape.methods.inverse_loss import InverseLoss
from stepping import run


def test_divides_by_the_last_loss_that_was_seen_and_not_zero() -> None:
    nan = np.nan  # stands for inactive
    losses = np.array([[2.0, 0.0, nan], [4.0, 5.0, 8.0], [nan, 0.0, -1e-3], [1.0, 1.0, 1.0]])
    active = ~np.isnan(losses)
    wanted = [[0.5, 0, 0], [0.5, 0.2, 0.125], [0, 0.2, 0.125], [0.25, 0.2, 1e3]]
    found = run(InverseLoss(), np.nan_to_num(losses), active)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_multiplying_a_loss_from_the_first_step_on_divides_its_weights() -> None:
    losses = np.random.default_rng(0).uniform(0.1, 3.0, size=(5, 3))
    factors = np.array([1e-6, 1.0, 1e9])
    found = run(InverseLoss(), losses * factors) * factors
    np.testing.assert_allclose(found, run(InverseLoss(), losses), rtol=1e-5)
