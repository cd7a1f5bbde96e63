"""SoftAdapt against slopes of interpolating polynomials."""

import numpy as np
import pytest

from histories import Array, history, wandering
from polytape.methods.soft_adapt import SoftAdapt, difference


def by_polynomials(method: SoftAdapt, losses: Array, active: Array) -> Array:
    weights = []
    for step in range(len(losses)):
        slopes, means = np.zeros(losses.shape[1]), np.zeros(losses.shape[1])
        for t in np.flatnonzero(active[step]):
            seen = losses[: step + 1, t][active[: step + 1, t]][-method.window :]
            means[t] = seen.mean()
            if len(seen) > method.order:
                nodes = np.arange(-method.order, 1.0)
                fit = np.polyfit(nodes, seen[-method.order - 1 :], method.order)
                slopes[t] = np.polyval(np.polyder(fit), 0.0)
        if method.variant == "normalized":
            slopes /= np.abs(slopes).sum() or 1.0
        power = active[step] * np.exp(method.beta * (slopes - slopes.max()))
        if method.variant == "loss-weighted":
            power *= means
        weights.append(active[step].sum() * power / power.sum())
    return np.array(weights)


@pytest.mark.parametrize("variant", ["original", "normalized", "loss-weighted"])
@pytest.mark.parametrize("order", [1, 3])
def test_matches_interpolating_polynomials(variant: str, order: int) -> None:
    losses, active = wandering(10, 3)
    losses = losses / losses[0] * np.array([1.0, 2.0, 0.5])
    method = SoftAdapt(variant=variant, beta=0.7, window=4, order=order)
    found = history(method, losses, active)
    np.testing.assert_allclose(found, by_polynomials(method, losses, active), rtol=1e-4)
    assert np.ptp(found[-1]) > 0.05


@pytest.mark.parametrize("order", range(1, 7))
def test_differences_are_exact_for_polynomials_of_their_order(order: int) -> None:
    nodes = np.arange(-order - 1, 1.0)
    for degree in range(order + 1):
        slope = difference(order, order + 2) @ (nodes + 2.0) ** degree
        assert slope == pytest.approx(degree * 2.0 ** (degree - 1), abs=1e-4 * (order + 2) ** order)


def test_normalized_and_rising_losses_weigh_most() -> None:
    losses = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5]])
    found = history(SoftAdapt(variant="normalized"), losses)
    np.testing.assert_allclose(found, history(SoftAdapt(variant="normalized"), 1e6 * losses), 1e-5)
    assert found[1, 0] > found[1, 1] > found[1, 2]
    turned = history(SoftAdapt(beta=-0.1), losses)
    assert turned[1, 0] < turned[1, 1] < turned[1, 2]


def test_losses_of_zero_weigh_equal() -> None:
    assert (history(SoftAdapt(variant="loss-weighted"), np.zeros((3, 2))) == 1).all()


def test_a_window_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window=3, order=3.*Give a window of at least 4"):
        SoftAdapt(window=3, order=3)
