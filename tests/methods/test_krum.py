"""Krum against its definition as loops over pairs of vectors."""

import numpy as np
import pytest

from compiled import compiled
from polytape.methods.krum import Krum
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def by_loops(rows: Array, faulty: int, selected: int) -> Array:
    """Weights that add up to one."""
    scores = []
    for i, row in enumerate(rows):
        apart = sorted(np.sum((row - other) ** 2) for j, other in enumerate(rows) if j != i)
        scores.append(sum(apart[: len(rows) - faulty - 2]))
    chosen = np.argsort(scores)[:selected]
    return np.isin(np.arange(len(rows)), chosen) / selected


@pytest.mark.parametrize(("faulty", "selected"), [(0, 1), (2, 1), (2, 3), (1, 7)])
def test_matches_loops(faulty: int, selected: int) -> None:
    rng = np.random.default_rng(0)
    trial = Trial(Krum(faulty=faulty, selected=selected, scale="paper"), compiled)
    for scale in (1e-9, 1.0, 1e9):
        for _ in range(5):
            rows = rng.normal(size=(7, 4)) * scale * rng.uniform(0.2, 5, size=(7, 1))
            found = trial.update(rows, np.ones(7)).weights
            np.testing.assert_allclose(found, by_loops(rows, faulty, selected), rtol=1e-6)


def test_a_gradient_gone_wrong_is_left_out() -> None:
    rows = np.array([[1.0, 0.9], [1.1, 1.0], [0.9, 1.0], [1.0, 1.1], [-50.0, 80.0]])
    found = Trial(Krum(faulty=1, selected=4, scale="paper"), compiled).update(rows, np.ones(5))
    np.testing.assert_allclose(found.weights, [0.25, 0.25, 0.25, 0.25, 0], rtol=1e-6)


def test_neighbours_are_counted_among_the_active() -> None:
    rows = np.random.default_rng(1).normal(size=(7, 3))
    active = np.array([True, True, False, True, True, True, False])
    found = Trial(Krum(faulty=1, selected=2, scale="paper"), compiled).update(
        rows, np.ones(7), active
    )
    np.testing.assert_allclose(found.weights[active], by_loops(rows[active], 1, 2), rtol=1e-6)


def test_ties_are_shared() -> None:
    angles = 2 * np.pi * np.arange(5) / 5
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = Trial(Krum(selected=2, scale="paper"), compiled).update(rows, np.ones(5)).weights
    np.testing.assert_allclose(found, 0.2, rtol=1e-6)


def test_too_few_objectives_for_the_faulty_ones_are_refused() -> None:
    text = r"Krum\(faulty=2\) needs at least 2 \* faulty \+ 3 = 7 objectives .* Received: 6"
    with pytest.raises(ValueError, match=text):
        Trial(Krum(faulty=2)).update(np.eye(6), np.ones(6))
