"""DWA against a plain loop over windows."""

import numpy as np

from compiled import compiled
from polytape.methods.dwa import DWA
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def by_loop(losses: Array, active: Array, steps: int, temperature: float) -> Array:
    """Weights of every step, (N, T), in float64."""
    weights, means = [], []
    for start in range(0, len(losses), steps):
        if len(means) < 2:
            ratio = np.ones(losses.shape[1])
        else:
            ratio = means[-1] / means[-2]
        for step in range(start, min(start + steps, len(losses))):
            share = active[step] * np.exp(ratio / temperature)
            weights.append(active[step].sum() * share / share.sum())
        window = slice(start, start + steps)
        means.append((losses * active)[window].sum(0) / active[window].sum(0))
    return np.array(weights)


def run(method: DWA, losses: Array, active: Array) -> Array:
    trial = Trial(method, compiled)
    state = trial.start(losses.shape[1:])
    found = []
    for loss, mask in zip(losses, active, strict=True):
        weights, state = trial.step(np.zeros((*loss.shape, 1)), loss * mask, mask, state)
        found.append(weights)
    return np.array(found)


def test_matches_a_plain_loop_with_labels_missing() -> None:
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.2, 3.0, size=(14, 3)) * np.array([1.0, 100.0, 1e-3])
    active = np.ones((14, 3), bool)
    active[[1, 4, 10], 2] = False
    found = run(DWA(steps=3, temperature=1.5), losses, active)
    np.testing.assert_allclose(found, by_loop(losses, active, 3, 1.5), rtol=1e-5)
    assert (found[0] == 1).all()
    assert (found[5] == 1).all()
    assert not (found[6] == 1).any()


def test_losses_without_a_ratio_count_as_steady() -> None:
    losses = np.tile([-1.0, 0.0], (8, 1))
    assert (run(DWA(steps=2), losses, np.ones((8, 2), bool)) == 1).all()


def test_a_window_without_labels_keeps_the_last_means() -> None:
    losses = np.array([[4.0, 4.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    active = np.ones((4, 2), bool)
    active[2, 0] = False
    found = run(DWA(steps=1, temperature=1.0), losses, active)
    ratio = np.exp([0.25, 1.0])  # the second objective stood still between its last two windows
    np.testing.assert_allclose(found[3], 2 * ratio / ratio.sum(), rtol=1e-5)
