"""Rows that are cut into pieces, or summed one by one, are as right as short ones."""

import keras
import numpy as np
import pytest

from polytape.engines import Rows, engine

pytestmark = pytest.mark.engine
Array = np.ndarray
SIZES = (5, 2**16 + 3, 2**20 + 7)  # short, long, and in two pieces on PyTorch
COUNT = 3


def rows_of(values: Array) -> Rows:
    return engine().rows([keras.ops.convert_to_tensor(row) for row in values])


def known(tensor: object) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")


@pytest.mark.parametrize("size", SIZES)
def test_products_and_sums(size: int) -> None:
    values = np.random.default_rng(size).normal(size=(COUNT, size)).astype("float32")
    exact, rows = values.astype("float64"), rows_of(values)
    products = exact @ exact.T
    close = {"rtol": 1e-5, "atol": 1e-5 * size**0.5}
    np.testing.assert_allclose(known(rows.gram()), products, **close)
    np.testing.assert_allclose([known(s) for s in rows.squares()], np.diag(products), **close)
    mixed = np.array([[1.0, -1.0, 0.0], [0.5, 0.25, 2.0]], "float32")
    found = known(rows.gram(keras.ops.convert_to_tensor(mixed)))
    np.testing.assert_allclose(found, mixed @ products @ mixed.T, **close)
    weights = np.array([0.5, -2.0, 0.25], "float32")
    found = known(rows.weighted_sum(keras.ops.convert_to_tensor(weights), None))
    np.testing.assert_allclose(found, weights @ exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(known(rows.matrix()), exact)


@pytest.mark.parametrize("size", SIZES)
def test_rows_that_are_not_kept_are_not_read(size: int) -> None:
    values = np.random.default_rng(size).normal(size=(COUNT, size)).astype("float32")
    exact = values.astype("float64")
    values[1, size // 2] = np.nan
    kept = np.array([True, False, True])
    rows = rows_of(values)
    weights = keras.ops.convert_to_tensor(np.ones(COUNT, "float32"))
    found = known(rows.weighted_sum(weights, keras.ops.convert_to_tensor(kept)))
    np.testing.assert_allclose(found, exact[0] + exact[2], rtol=1e-5, atol=1e-5)
    products = known(rows.gram(kept=keras.ops.convert_to_tensor(kept)))
    inside = (exact * kept[:, None]) @ (exact * kept[:, None]).T
    np.testing.assert_allclose(products, inside, rtol=1e-5, atol=1e-5 * size**0.5)
    assert not np.isfinite(known(rows.squares()[1]))
