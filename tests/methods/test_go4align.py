"""GO4Align against a plain loop with groups found by trying them all."""

import numpy as np
import pytest

from histories import Array, history, wandering
from partitions import best_groups
from polytape.methods.go4align import GO4Align


def by_loop(losses: Array, active: Array, groups: int, rate: float) -> Array:
    logits, weights = np.zeros(losses.shape[1]), []
    for loss, mask in zip(losses, active, strict=True):
        logits = logits - rate * loss * mask
        p = np.exp(logits[mask] - logits[mask].max())
        weights.append(np.zeros(len(loss)))
        weights[-1][mask] = best_groups(p / p.sum() * loss[mask].sum() / loss[mask], groups)
    return np.array(weights)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_matches_a_plain_loop_with_labels_missing(groups: int) -> None:
    losses, active = wandering(6, 6, seed=1)
    losses = np.sqrt(losses)
    found = history(GO4Align(groups=groups, rate=0.02), losses, active)
    np.testing.assert_allclose(found, by_loop(losses, active, groups, 0.02), rtol=1e-4)
    for weights, mask in zip(found, active, strict=True):
        assert len(np.unique(weights[mask].round(6))) <= groups


def test_a_loss_of_zero_joins_no_group() -> None:
    found = history(GO4Align(rate=0.0), np.array([[1.0, 0.0, 4.0, -1.0]]))[0]
    np.testing.assert_allclose(found, [2.5, 1.0, 0.625, 1.0], rtol=1e-5)
