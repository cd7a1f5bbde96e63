import numpy as np
import pytest
from keras import ops
from scipy.optimize import nnls

from compiled import compiled
from nasty import SIZES, breach, gramians, unit
from polytape.linalg.dual_cone import project_onto_dual_cone

SOLVE = compiled(lambda gramian, active, u: project_onto_dual_cone(gramian, active, None, u))


def vectors(names, size):
    """First and last unit vector, equal and very unequal entries, nothing; (N, 5, T)."""
    rows = [np.eye(size)[0], np.eye(size)[-1], np.ones(size) / size, np.logspace(-3, 3, size)]
    return np.tile(np.stack([*rows, np.zeros(size)]), (len(names), 1, 1)).astype("float32")


def solve(batch, u):
    active = ops.ones(batch.shape[:-1], dtype="bool")
    return np.asarray(SOLVE(ops.array(batch), active, ops.array(u)), "float64")


@pytest.mark.parametrize("size", SIZES)
def test_conditions_of_optimality(size):
    names, batch = gramians(size)
    u = vectors(names, size)
    found = solve(batch, u)
    for index in np.ndindex(u.shape[:2]):
        gramian, name = batch[index[0]], names[index[0]]
        cosines, norms = unit(gramian)
        alive = np.diag(gramian) > 0
        np.testing.assert_array_equal(found[index][~alive], u[index][~alive], err_msg=name)
        assert np.all(found[index] >= u[index]), name
        lower = np.where(alive, norms * u[index], 0)
        extra = np.where(alive, norms * (found[index] - u[index]), 0)
        scale = (lower + extra).sum()
        assert breach(cosines, -cosines @ lower, extra) <= 1e-5 * scale, name


@pytest.mark.parametrize("size", [2, 8])
def test_no_longer_than_the_exact_projection(size):
    names, batch = gramians(size)
    u = vectors(names, size)
    found = solve(batch, u)
    for index in np.ndindex(u.shape[:2]):
        alive = np.diag(batch[index[0]]) > 0
        if not (alive * u[index]).any():
            continue
        cosines, norms = (part[alive] for part in unit(batch[index[0]]))
        values, base = np.linalg.eigh(cosines[:, alive])
        rows = base * np.sqrt(np.maximum(values, 1e-9))
        lower, v = norms * u[index][alive], norms * found[index][alive]
        largest = lower.max()
        _, shortest = nnls(rows.T, -rows.T @ lower / largest)
        length = np.linalg.norm(rows.T @ v) / largest
        assert length**2 <= shortest**2 + 1e-5 * (v.sum() / largest) ** 2, names[index[0]]


def test_inactive_objectives_do_not_take_part():
    gramian = ops.array([[1.0, -1.0], [-1.0, 4.0]])
    v = SOLVE(gramian, ops.array([True, False]), ops.eye(2))
    np.testing.assert_array_equal(np.asarray(v), np.eye(2))
