"""The best update for the worst objective, against its conditions and a cone programme."""

import cvxpy
import numpy as np
import pytest
from keras import ops

from compiled import compiled
from nasty import SIZES, gramians, jacobians, unit
from polytape.linalg.max_min import max_min_correction
from polytape.linalg.solve import ridge

SOLVE = compiled(max_min_correction)


def solve(batch, reach):
    """Corrections (N, T), and the centre: the mean."""
    active = ops.ones(batch.shape[:-1], dtype="bool")
    centre = np.full(batch.shape[:-1], 1 / batch.shape[-1], "float32")
    found = SOLVE(ops.array(batch), active, ops.array(centre), ops.array(reach, "float32"))
    return np.asarray(found, "float64"), centre


@pytest.mark.parametrize("reach", [0.4, 0.9])
@pytest.mark.parametrize("size", SIZES)
def test_conditions_of_optimality(size, reach):
    names, batch = gramians(size)
    for name, gramian, z, p in zip(names, batch, *solve(batch, reach), strict=True):
        assert z.min() >= 0, name
        alive = np.diag(gramian) > 0
        assert (z[~alive] == 0).all(), name
        if not alive.any():
            continue
        cosines, norms = (part[alive] for part in unit(gramian))
        cosines, norms = cosines[:, alive], norms / norms.max()
        middle, beta = norms * p[alive], norms * z[alive]
        scale = (middle + beta).sum()
        # Some least gain u makes every gain at least u, and those with z > 0 equal to it: in units
        # of each gradient's own length.
        gains, lean = cosines @ (middle + beta), norms.min() / norms
        slack = gains - (gains / lean)[:, None] * lean
        breach = np.maximum(-slack, np.minimum(beta, slack)).max(axis=1)
        assert breach.min() <= 1e-5 * scale, name
        length = beta @ (cosines + ridge(size) * np.eye(alive.sum())) @ beta
        radius = reach**2 * (middle @ cosines @ middle)
        assert length == pytest.approx(radius, rel=1e-3, abs=1e-6 * scale**2), name


@pytest.mark.parametrize("reach", [0.4, 0.9, 3.0])
def test_no_worse_than_a_cone_programme(reach):
    names, batch = gramians(8)
    for name, z, p in zip(names, *solve(batch, reach), strict=True):
        rows = jacobians(8)[name]
        rows = rows[np.abs(rows).sum(axis=1) > 0] / max(np.abs(rows).max(), 1e-30)
        if not len(rows):
            continue
        z, p = (part[np.abs(jacobians(8)[name]).sum(axis=1) > 0] for part in (z, p))
        middle = p @ rows
        step = cvxpy.Variable(rows.shape[1])
        inside = cvxpy.norm(step - middle) <= reach * np.linalg.norm(middle)
        problem = cvxpy.Problem(cvxpy.Maximize(cvxpy.min(rows @ step)), [inside])
        best = problem.solve(cvxpy.CLARABEL)
        norms = np.linalg.norm(rows, axis=1)
        rounding = 1e-5 * norms.max() * (norms @ (p + z))
        assert (rows @ (rows.T @ (p + z))).min() >= best - rounding, name


def test_inactive_objectives_do_not_take_part():
    gramian = ops.array([[1.0, -1.0, 7.0], [-1.0, 4.0, 1.0], [7.0, 1.0, 90.0]])
    centre = ops.array([0.5, 0.5, 0.0])
    found = SOLVE(gramian, ops.array([True, True, False]), centre, ops.array(0.4))
    alone = max_min_correction(gramian[:2, :2], ops.array([True, True]), centre[:2], 0.4)
    np.testing.assert_allclose(np.asarray(found), [*np.asarray(alone), 0], rtol=1e-5)


def test_a_centre_of_nothing_needs_no_correction():
    opposed = ops.array([[1.0, -1.0], [-1.0, 1.0]])
    found = max_min_correction(opposed, ops.array([True, True]), ops.array([0.5, 0.5]), 0.4)
    np.testing.assert_array_equal(np.asarray(found), 0)
