"""Weighted least squares against double precision."""

import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.linalg.stiff import exchanged, fitting, tableau


@compiled
def solved(rows, weight, target):
    return fitting(exchanged(tableau(rows), weight), weight)(target)


def problem(size, decades, seed):
    """Rows (N, M, T), half of which nearly repeat others, weights and targets (N, T + M)."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(10, size + 1, size)) / np.sqrt(size)
    rows[5:, 1::2] = rows[5:, :-1:2] + 1e-3 * rows[5:, 1::2]
    weight = 10 ** rng.uniform(-decades / 2, decades / 2, size=(10, 2 * size + 1))
    return [part.astype("float32") for part in (rows, weight, rng.normal(size=weight.shape))]


def exact(rows, weight, target):
    rows, weight, target = map(np.float64, (rows, weight, target))
    rows, root = np.vstack([np.eye(rows.shape[1]), rows]), np.sqrt(weight)
    # Heaviest first: elimination by reflections is then stable row by row.
    order = np.argsort(-weight)
    q, r = np.linalg.qr((rows * root[:, None])[order])
    values = rows @ np.linalg.solve(r, q.T @ (root * target)[order])
    return values, weight * (target - values)


@pytest.mark.parametrize("size", [1, 3, 8, 20])
@pytest.mark.parametrize("decades", [0, 6, 10])
def test_values_and_forces_are_accurate_whatever_the_weights(size, decades):
    given = problem(size, decades, size)
    values, forces = (np.asarray(part) for part in solved(*map(ops.array, given)))
    for *one, found, pull in zip(*given, values, forces, strict=True):
        right, wanted = exact(*one)
        # Rows that differ by 1e-3 leave three digits less of what float32 has.
        largest = np.abs(right).max() + np.abs(one[2]).max()
        np.testing.assert_allclose(found, right, atol=1e-4 * largest)
        np.testing.assert_allclose(pull, wanted, rtol=1e-2, atol=1e-4 * np.abs(wanted).max())
