"""SignAgreement, coordinate by coordinate."""

import numpy as np
import pytest
from keras import ops

from polytape.contract import Seed
from polytape.methods.rowwise.sign_agreement import SignAgreement
from polytape.testing.matrices import Array

# Agreement of the columns: 5, 3, 1, 1, 4 and 0 of 5.
ROWS = np.array(
    [
        [1.0, 2.0, 1.0, -1.0, 3.0, 0.0],
        [2.0, 1.0, 1.0, -1.0, 1.0, 0.0],
        [3.0, 5.0, 9.0, -9.0, 1.0, 0.0],
        [4.0, 1.0, -1.0, 1.0, 1.0, 1e-9],
        [1e-9, -1.0, -1.0, 5.0, 0.0, -1.0],
    ]
)


def combine(rows: Array, threshold: float) -> Array:
    given = ops.convert_to_tensor(np.float32(rows))
    return ops.convert_to_numpy(SignAgreement(threshold=threshold).combine(given, Seed(0)))


@pytest.mark.parametrize(
    ("threshold", "kept"), [(1.0, 1), (0.8, 2), (0.61, 2), (0.6, 3), (0.2, 5), (0.0, 6)]
)
def test_keeps_the_coordinates_with_enough_agreement(threshold: float, kept: int) -> None:
    agreement = np.abs(np.sign(ROWS).sum(0)) / 5
    enough = agreement >= threshold - 1e-9
    assert enough.sum() == kept
    np.testing.assert_allclose(combine(ROWS, threshold), enough * ROWS.sum(0), rtol=1e-6)


def test_a_row_of_zeros_has_no_say() -> None:
    rows = np.vstack([ROWS, np.zeros((2, 6))])
    np.testing.assert_array_equal(combine(rows, 1.0), combine(ROWS, 1.0))
