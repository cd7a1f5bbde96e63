"""The check of gradients, for one bad number anywhere."""

import numpy as np
import pytest
from keras import ops

from compiled import compiled
from polytape.engines import engine

SHAPES = [(3, 4), (5000,), (90, 70), (8, 30, 40), ()]


@compiled
def finite(*gradients):
    return engine().finite(gradients)


def gradients(bad=None, value=0.0):
    rng = np.random.default_rng(0)
    found = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    if bad is not None:
        found[bad].reshape(-1)[found[bad].size // 3] = value
    return [ops.convert_to_tensor(gradient) for gradient in found]


def test_numbers_of_any_usual_size_are_finite():
    assert bool(finite(*gradients()))
    assert bool(finite(*(1e30 * gradient for gradient in gradients())))


@pytest.mark.parametrize("bad", range(len(SHAPES)))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_seen(bad, value):
    assert not bool(finite(*gradients(bad, value)))


@compiled
def in_range(*gradients):
    return engine().in_range(gradients[:-1], gradients[-1:])


def test_large_values_are_in_range_and_gradients_whose_square_is_not_are_not():
    assert bool(in_range(*gradients(4, 3e38)))
    assert bool(in_range(*(1e12 * gradient for gradient in gradients())))
    for bad in range(4):
        assert not bool(in_range(*gradients(bad, 3e19)))


@pytest.mark.parametrize("bad", range(len(SHAPES)))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_out_of_range(bad, value):
    assert not bool(in_range(*gradients(bad, value)))
