"""GradDrop: one sign per coordinate, as often as it should be."""

import keras
import numpy as np
import pytest
from keras import ops

from polytape.contract import Seed
from polytape.methods.rowwise.grad_drop import GradDrop
from polytape.testing.matrices import Array

pytestmark = pytest.mark.draws

WIDTH = 20_000


def combine(rows: Array, leak: float = 0.0) -> Array:
    seed = Seed(keras.random.SeedGenerator(5).next())
    given = ops.convert_to_tensor(np.float32(rows))
    return ops.convert_to_numpy(GradDrop(leak=leak).combine(given, seed))


@pytest.mark.parametrize(("up", "down"), [(3.0, 1.0), (1.0, 1.0), (0.5, 4.5)])
def test_signs_are_kept_in_proportion_to_their_mass(up: float, down: float) -> None:
    rows = np.repeat([[up], [-down]], WIDTH, axis=1)
    found = combine(rows)
    kept = np.isclose(found, up)
    assert (kept | np.isclose(found, -down)).all()
    assert kept.mean() == pytest.approx(up / (up + down), abs=0.015)


def test_leak_lets_a_share_of_the_other_sign_pass() -> None:
    rows = np.repeat([[3.0], [1.0], [-2.0]], WIDTH, axis=1)
    found = combine(rows, leak=0.25)
    assert set(np.round(found, 4)) == {3.5, -1.0}
    np.testing.assert_allclose(combine(rows, leak=1.0), 2.0, rtol=1e-6)


def test_agreement_is_summed_and_nothing_stays_nothing() -> None:
    rows = np.array([[1.0, -2.0, 0.0, 1e-12], [3.0, -4.0, 0.0, 1e-12]])
    np.testing.assert_allclose(combine(rows), [4.0, -6.0, 0.0, 2e-12], rtol=1e-6)
