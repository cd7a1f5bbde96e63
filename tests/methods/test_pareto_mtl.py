"""Pareto MTL: certificates of both phases, and where training ends."""

from functools import cache

import numpy as np
import pytest
from scipy.optimize import nnls

from compiled import compiled
from polytape.methods.pareto_mtl import ParetoMTL
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

ANGLES = np.linspace(0, np.pi / 2, 5)
VECTORS = tuple((float(np.cos(a)), float(np.sin(a))) for a in ANGLES)
THREE = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.5), (1.0, 1.0, 0.2), (0.5, 3.0, 1.0))


def shortest(rows: Array) -> Array:
    """The min-norm point of the hull of rows, by non-negative least squares."""
    far = 1e3 * np.abs(rows).max()
    shares = nnls(np.vstack([rows.T, np.full(len(rows), far)]), np.append(0 * rows[0], far))[0]
    return rows.T @ shares / shares.sum()


def folds(vectors: Array, chosen: int) -> Array:
    units = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units - units[chosen]


@cache
def of_three(chosen: int, patience: int) -> Trial:
    return Trial(ParetoMTL(THREE, chosen=chosen, patience=patience), compiled)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("patience", [0, 1])
def test_the_direction_is_the_min_norm_point_of_gradients_and_violated_constraints(
    seed: int, patience: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, losses = rng.normal(size=(3, 7)), rng.uniform(0.1, 1, size=3)
    trial = of_three(seed % 4, patience)
    weights, state = trial.step(rows, losses, np.ones(3, bool), trial.start((3,)))
    excess = folds(THREE, seed % 4)
    violated = excess @ losses > 0
    searching = patience and violated.any()
    parts = excess[violated] @ rows if searching else np.vstack([rows, excess[violated] @ rows])
    right = shortest(parts)
    found = rows.T @ np.float64(weights)
    assert np.abs(weights).sum() == pytest.approx(3, rel=1e-5)
    unit, wanted = found / np.linalg.norm(found), right / np.linalg.norm(right)
    np.testing.assert_allclose(unit, wanted, atol=2e-3)
    assert (parts @ found > 0).all()
    assert int(np.asarray(state["left"])[0]) == 0


def test_the_first_phase_lasts_until_the_part_is_reached_and_does_not_return() -> None:
    trial = Trial(ParetoMTL(VECTORS, chosen=2, patience=5), compiled)
    rows, state, left = np.eye(2), trial.start((2,)), []
    for losses in ([3.0, 1.0], [2.0, 1.0], [1.0, 1.0], [3.0, 1.0]):
        _, state = trial.step(rows, np.array(losses), np.ones(2, bool), state)
        left.append(int(np.asarray(state["left"])[0]))
    assert left == [4, 3, 0, 0]


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_training_ends_on_the_front_in_the_chosen_part(chosen: int) -> None:
    goals = np.array([[1.0, 0.0], [-1.0, 0.0]])
    trial = Trial(ParetoMTL(VECTORS, chosen=chosen), compiled)
    x, state = np.array([0.6, 1.0]), trial.start((2,))
    for step in range(120):
        apart = x - goals
        losses = (apart**2).sum(1)
        weights, state = trial.step(2 * apart, losses, np.ones(2, bool), state)
        x = x - 0.1 / (1 + 0.05 * step) * (2 * apart).T @ weights
    assert abs(x[1]) < 0.02
    assert (folds(VECTORS, chosen) @ losses < 0.05 * losses.max()).all()


@pytest.mark.parametrize("bad", [((1.0, -1.0),), ((0.0, 0.0),), ((1.0,), (1.0, 2.0)), (), "up"])
def test_vectors_are_checked(bad: object) -> None:
    with pytest.raises(ValueError, match=r"`vectors` must be a tuple of tuples of numbers >= 0"):
        ParetoMTL(vectors=bad)


def test_vectors_that_do_not_fit_are_refused() -> None:
    for method in (ParetoMTL(THREE), ParetoMTL(VECTORS, chosen=5)):
        with pytest.raises(ValueError, match=r"vectors of \d numbers, .* do not fit the 2 obj"):
            Trial(method).update(np.eye(2), np.ones(2))
