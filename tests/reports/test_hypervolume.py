import itertools

import numpy as np
import pytest

from polytape.reports.html import hypervolume as module
from polytape.reports.html.hypervolume import TooManyPointsError, hypervolume, scaled


def drawn(count, dimensions, seed):
    return np.random.default_rng(seed).uniform(size=(count, dimensions))


def by_drawing(points, reference, draws=200_000):
    """(share of a box from 0 to the reference, its standard error), by Monte Carlo."""
    corners = np.random.default_rng(0).uniform(size=(draws, len(reference))) * reference
    inside = np.zeros(draws, bool)
    for point in points:
        inside |= (point <= corners).all(axis=1)
    share = inside.mean()
    return share * np.prod(reference), np.sqrt(share * (1 - share) / draws) * np.prod(reference)


def by_inclusion_and_exclusion(points, reference):
    """Exact in any dimension, in 2^n steps."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            corner = np.max(chosen, axis=0)
            total += (-1) ** (size + 1) * np.prod(np.maximum(reference - corner, 0))
    return total


@pytest.mark.parametrize("dimensions", [2, 3, 4, 6])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_against_brute_force(dimensions, count):
    points, reference = drawn(count, dimensions, seed=count), np.full(dimensions, 1.0)
    found = hypervolume(points, reference)
    estimate, error = by_drawing(points, reference)
    assert found == pytest.approx(estimate, abs=5 * error + 1e-9)
    assert found == pytest.approx(by_inclusion_and_exclusion(points, reference), rel=1e-9)


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_on_paper(dimensions):
    """Unit vectors scaled by a: every one dominates a slab, together all but a cube."""
    a = 0.3
    points = a * (1 - np.eye(dimensions))  # zero in one coordinate, a in the others
    expected = (1 - a) ** dimensions + dimensions * a * (1 - a) ** (dimensions - 1)
    assert hypervolume(points, np.ones(dimensions)) == pytest.approx(expected)


def test_what_does_not_count():
    front = [(1.0, 3.0), (2.0, 1.0)]
    volume = hypervolume(front, (4, 4))
    assert hypervolume([*front, (2.0, 3.5), (2.0, 1.0)], (4, 4)) == volume  # dominated, twice
    assert hypervolume([*front, (0.0, 4.0), (9.0, 9.0)], (4, 4)) == volume  # beyond the reference
    assert hypervolume([], (4, 4)) == 0
    assert hypervolume(front, (4, 4)) == hypervolume(front[::-1], (4, 4))
    with pytest.raises(ValueError, match="not finite"):
        hypervolume([(float("nan"), 1.0)], (4, 4))


def test_a_scale_that_knows_which_way_is_better():
    among = [(0.9, 0.1), (0.5, 0.3)]  # accuracy, error
    best, worst = scaled(among, ["max", "min"], among)
    assert best.tolist() == [0, 0]
    np.testing.assert_allclose(worst, 1 / 1.1)
    turned = scaled([(0.1, 0.9), (0.3, 0.5)], ["min", "max"], [(0.1, 0.9), (0.3, 0.5)])
    np.testing.assert_allclose(turned, [best, worst])
    assert hypervolume([best], (1, 1)) == 1
    assert scaled(among, ["max", "min"], [(0.9, 0.1)] * 2).tolist() == [[0, 0], [0, 0]]


def test_of_too_many_points_none_is_guessed(monkeypatch):
    monkeypatch.setattr(module, "STEPS", 50)
    with pytest.raises(TooManyPointsError):
        hypervolume(drawn(40, 5, seed=1), np.ones(5))
