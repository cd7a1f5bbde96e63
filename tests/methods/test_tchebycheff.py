"""Tchebycheff: the worst loss, in plain NumPy."""

import numpy as np
import pytest

import polytape as pt
from polytape.methods.tchebycheff import Tchebycheff
from stepping import each


@pytest.mark.parametrize("divide", [False, True])
def test_the_worst_weighted_distance_takes_all(divide: bool) -> None:
    losses = np.random.default_rng(0).normal(size=(20, 4))
    preference, ideal = np.array([1.0, 2.0, 3.0, 2.0]), np.array([-0.5, 0.0, -0.2, 0.1])
    factor = 1 / preference if divide else preference
    factor = 4 * factor / factor.sum()
    value = factor * (losses - ideal)
    wanted = factor * (value == value.max(1, keepdims=True))
    method = Tchebycheff(tuple(preference), divide, tuple(ideal), scale="mean")
    np.testing.assert_allclose(each(method, losses), wanted, rtol=1e-5)
    assert len(set(wanted.argmax(1))) > 2


def test_equal_losses_share() -> None:
    np.testing.assert_allclose(each(Tchebycheff(), [[2.0, 2.0, -5.0]]), [[1.5, 1.5, 0]])


def test_the_smooth_form_tends_to_it() -> None:
    losses = np.random.default_rng(1).uniform(-1, 1, size=(8, 3))
    options = {"preference": (1.0, 2.0, 2.0), "ideal": (-1.0, -2.0, -1.0)}
    smooth = each(pt.STCH(temperature=1e-4, **options), losses)
    np.testing.assert_allclose(smooth, each(Tchebycheff(**options), losses), atol=1e-4)


@pytest.mark.parametrize("cls", [Tchebycheff, pt.STCH, pt.PBI, pt.FAMO])
def test_an_ideal_point_of_the_wrong_length_is_refused(cls: type) -> None:
    text = r"`ideal` needs one entry per objective. Received: \(0.0,\) of length 1 for the 2 obj"
    with pytest.raises(ValueError, match=text):
        pt.weigh(cls(ideal=(0.0,)), losses=[1.0, 2.0])
