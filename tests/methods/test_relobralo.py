"""ReLoBRaLo against a plain loop, and its random looks back."""

import numpy as np
import pytest

from histories import Array, history, wandering
from polytape.methods.relobralo import ReLoBRaLo

pytestmark = pytest.mark.draws


def balance(losses: Array, reference: Array, active: Array, temperature: float) -> Array:
    ratio = np.where(np.isnan(reference), 1.0, losses / reference)
    power = active * np.exp((ratio - ratio.max()) / temperature)
    return active.sum() * power / power.sum()


def by_loop(losses: Array, active: Array, decay: float, temperature: float, rho: float) -> Array:
    count = losses.shape[1]
    first, last, kept = np.full(count, np.nan), np.full(count, np.nan), np.ones(count)
    weights = []
    for loss, mask in zip(losses, active, strict=True):
        first = np.where(np.isnan(first) & mask, loss, first)
        history = mask * kept * mask.sum() / kept[mask].sum()
        past = rho * history + (1 - rho) * balance(loss, first, mask, temperature)
        present = balance(loss, last, mask, temperature)
        weights.append(decay * past + (1 - decay) * present)
        last, kept = np.where(mask, loss, last), np.where(mask, weights[-1], kept)
    return np.array(weights)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_matches_a_plain_loop_with_labels_missing(rho: float) -> None:
    losses, active = wandering(10, 3)
    found = history(ReLoBRaLo(decay=0.7, temperature=0.5, saudade=rho), losses, active)
    np.testing.assert_allclose(found, by_loop(losses, active, 0.7, 0.5, rho), rtol=1e-4)
    assert np.ptp(found[-1]) > 0.05


def test_looks_back_at_random_and_as_often_as_told() -> None:
    losses = np.linspace([1.0, 1.0], [0.1, 2.0], 300)
    found = history(ReLoBRaLo(decay=1.0, temperature=1.0, saudade=0.7), losses)
    everyone = np.ones(2, bool)
    back = np.array([balance(loss, losses[0], everyone, 1.0) for loss in losses])
    looked = np.isclose(found, back, rtol=1e-5).all(1)[1:]
    stayed = (np.abs(found[1:] - found[:-1]) < 1e-6).all(1)
    assert (looked | stayed).all()
    assert looked.mean() == pytest.approx(0.3, abs=0.1)
