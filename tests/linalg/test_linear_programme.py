"""Linear programmes like those of EPO against HiGHS in double precision."""

import numpy as np
import pytest
from keras import ops
from scipy.optimize import linprog

from compiled import compiled
from nasty import jacobians, unit
from polytape.linalg.linear_programme import maximise

SOLVE = compiled(maximise)
EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
SKIPPED = ("all zero", "zero row", "tiny", "huge")


def problems(size):
    """Names, and p (N, T), A (N, T, T), b (N, T), e (N, T): cosines, ascent bounded or none."""
    rng = np.random.default_rng(size)
    names, found = [], []
    for name, rows in jacobians(size).items():
        if name in SKIPPED:
            continue
        cosines, norms = unit(rows @ rows.T)
        push = cosines @ (norms * rng.normal(size=size))
        # The min-norm point has products >= 0 with all rows: a bound <= 0 can be met.
        for p, b in ((push, np.minimum(push, 0) / norms.min()), (cosines @ norms, 0 * norms)):
            names.append(name)
            found.append((p / np.abs(p).max(), cosines, b, norms.min() / norms))
    return names, [np.stack(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_as_good_as_a_solution_in_double_precision(size):
    names, given = problems(size)
    # Compared are solutions of the same programme: rounding its data moves an ill-conditioned one.
    given = [part.astype("float32") for part in given]
    solved = np.asarray(SOLVE(*map(ops.array, given)), "float64")
    seen = 0
    exact = map(np.float64, given)
    for name, y, p, A, b, e in zip(names, solved, *exact, strict=True):
        assert y.min() >= 0, name
        assert e @ y == pytest.approx(1, abs=1e-6), name
        assert (A @ y - b).min() >= -1e-6 * (y.sum() + np.abs(b).max()), name
        right = linprog(-p, A_ub=-A, b_ub=-b, A_eq=e[None], b_eq=[1.0], options=EXACT)
        if right.status == 0:  # else rounding has left it without a solution
            seen += 1
            assert abs(-right.fun - p @ y) <= 1e-5 * (np.abs(p) @ y), name
    assert seen > 0.7 * len(names)


@pytest.mark.engine  # as NumPy rounds, 7.2e-5
def test_several_solutions_give_the_middle():
    p, A, b = np.ones(3), -np.eye(3), np.full(3, -1.0)
    found = SOLVE(*(ops.array(part.astype("float32")) for part in (p, A, b, np.ones(3))))
    np.testing.assert_allclose(np.asarray(found), 1 / 3, rtol=7e-5)


def test_a_problem_that_is_not_finite_leaves_the_others_alone():
    p = np.array([[1.0, 0.0], [np.nan, 0.0]], "float32")
    A, b = np.array([[[-1.0, 1.0]]] * 2, "float32"), np.full((2, 1), -0.5, "float32")
    found = np.asarray(SOLVE(*map(ops.array, (p, A, b, np.ones((2, 2), "float32")))))
    np.testing.assert_allclose(found[0], [0.75, 0.25], atol=1e-4)
