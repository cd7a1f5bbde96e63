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
