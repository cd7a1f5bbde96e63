"""EPO against the published programmes, on the raw Gramian, by HiGHS in double precision."""

import numpy as np
import pytest
from scipy.optimize import linprog

from compiled import compiled
from polytape.methods.epo import EPO
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

# Losses that differ by a share of 0.005 have logarithms of some five digits in float32.
NEARLY = 1e-4
PREFERENCE = (1.0, 2.0, 0.5, 1.5)
PLAIN, WANTED = (Trial(EPO(p, scale="paper"), compiled) for p in (None, PREFERENCE))


def programme(gramian: Array, losses: Array, r: Array) -> tuple[Array, Array, Array]:
    """Objective c, constraints A w >= b."""
    r = r * len(r) / r.sum()
    share = r * losses / (r @ losses)
    log = np.log(len(r) * share)
    push = gramian @ (r * (log - share @ log))
    if share @ log > 1e-4:
        bound = np.zeros(len(r))
        if (push > 0).any():
            bound = np.where(push > 0, -np.inf, push)
            bound[np.argmax(share)] = 0
        return push, gramian[bound > -np.inf], bound[bound > -np.inf]
    least = min(0.0, push.max())
    return gramian.sum(0), np.vstack([gramian, push]), np.append(0 * r, least)


def solve(c: Array, A: Array, b: Array) -> object:
    return linprog(-c, A_ub=-A, b_ub=-b, A_eq=np.ones((1, len(c))), b_eq=[1.0])


def certify(trial: Trial, rows: Array, losses: Array, r: Array, rounding: float) -> bool:
    """Whether the published programme has a solution; if not, the last bound is to give way."""
    weights = np.float64(trial.update(rows, losses).weights)
    c, A, b = programme(rows @ rows.T, losses, r)
    right = solve(c, A, b)
    feasible = right.status == 0
    if not feasible:
        best = -solve(A[-1], A[:-1], b[:-1]).fun
        assert best < b[-1]
        b[-1] = best - 1e-4 * np.abs(A[-1]) @ weights
        right = solve(c, A, b)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert (A @ weights - b >= -rounding * np.abs(A) @ weights - 1e-6 * np.abs(b)).all()
    assert abs(-right.fun - c @ weights) <= rounding * (np.abs(c) @ weights)
    return feasible


@pytest.mark.parametrize("seed", range(12))
def test_balance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 4 + seed)) * rng.uniform(0.1, 10, size=(4, 1))
    losses = rng.uniform(0.1, 3.0, size=4)
    certify(PLAIN, rows, losses, np.ones(4), 1e-5)
    certify(WANTED, rows, losses, np.array(PREFERENCE), 1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_descent_where_the_weighted_losses_are_equal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 8)) + 0.3 * rng.normal(size=8)
    nearly = 1 + 0.005 * rng.normal(size=4)
    certify(PLAIN, rows, np.ones(4), np.ones(4), 1e-5)
    certify(PLAIN, rows, nearly, np.ones(4), NEARLY)
    certify(WANTED, rows, nearly / np.array(PREFERENCE), np.array(PREFERENCE), NEARLY)


def test_a_bound_that_contradicts_descent_gives_way() -> None:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(4, 8)) + 0.3 * rng.normal(size=8)
    assert not certify(PLAIN, rows, 1 + 0.005 * rng.normal(size=4), np.ones(4), NEARLY)


def test_losses_end_in_the_proportions_asked_for() -> None:
    """Two quadratic losses, a step at a time: r_1 L_1 = r_2 L_2 on the Pareto front."""
    r, goals = np.array([3.0, 1.0]), np.array([[1.0, 0.0], [-1.0, 0.5]])
    trial = Trial(EPO(tuple(r), scale="paper"), compiled)
    x = np.array([0.8, 1.5])
    for step in range(150):
        apart = x - goals
        losses = (apart**2).sum(1) + 0.1
        x = x - 0.3 / (1 + 0.1 * step) * trial.update(2 * apart, losses).direction
    assert r[0] * losses[0] == pytest.approx(r[1] * losses[1], rel=0.03)
    across = np.array([0.5, 2.0])  # at right angles to the front, the line between the goals
    assert abs(across @ (x - goals[0])) < 0.06
