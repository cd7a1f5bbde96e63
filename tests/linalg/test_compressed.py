"""Rows in T coordinates against the rows themselves, in float64."""

import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.linalg.compressed import compressed_rows, dependent, mixing

MIX, MADE, NEAR = compiled(mixing), compiled(compressed_rows), compiled(dependent)


def rows_of(count: int, angle: float) -> np.ndarray:
    """Unit rows, times numbers from 0.1 to 10, of which a combination is about `angle` long."""
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, 2 * count))
    rows -= rows.mean(0)
    rows += angle * rng.normal(size=rows.shape)
    return np.float32(
        rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.logspace(-1, 1, count)[:, None]
    )


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("count", [2, 5, 16])
def test_short_combinations_are_as_long_as_in_the_rows(count: int, angle: float) -> None:
    rows = rows_of(count, angle)
    gramian = ops.convert_to_tensor(rows @ rows.T)
    mixed = MIX(gramian)
    short = ops.convert_to_numpy(mixed) @ rows
    found = MADE(gramian, mixed, ops.convert_to_tensor(short @ short.T))
    found = ops.convert_to_numpy(found).astype("float64")
    size = np.linalg.norm(rows.astype("float64"), axis=1)
    left, values, _ = np.linalg.svd(rows / size[:, None])
    lengths = np.linalg.norm(left.T @ (found / size[:, None]), axis=1)
    np.testing.assert_allclose(lengths, values, rtol=3e-6, atol=2e-6)
    assert values[-1] < 3 * angle
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-5 * size.max() ** 2)


def test_zero_rows_take_no_part() -> None:
    rows = np.float32([[1.0, 1e-4, 0.0], [0.0, 0.0, 0.0], [-2.0, 1e-4, 0.0]])
    gramian = ops.convert_to_tensor(rows @ rows.T)
    mixed = MIX(gramian)
    short = ops.convert_to_numpy(mixed) @ rows
    found = ops.convert_to_numpy(MADE(gramian, mixed, ops.convert_to_tensor(short @ short.T)))
    assert (found[1] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(2 * found[0] + found[2]), 3e-4, rtol=1e-2)


def test_only_nearly_dependent_rows_ask_for_a_closer_look() -> None:
    plain = np.random.default_rng(0).normal(size=(8, 16))
    assert not NEAR(ops.convert_to_tensor(np.float32(plain @ plain.T)))
    assert not NEAR(ops.zeros((3, 3)))
    rows = rows_of(8, 1e-3)
    assert NEAR(ops.convert_to_tensor(rows @ rows.T))
