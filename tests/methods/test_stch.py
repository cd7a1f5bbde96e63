"""STCH against derivatives of a soft maximum, and its warm-up against a plain loop."""

import numpy as np
import pytest

from compiled import compiled
from polytape.methods.stch import STCH
from polytape.testing import check
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial
from stepping import each, run, slopes

LIKING, IDEAL = np.array([2.0, 0.5, 0.5]), np.array([-1.0, 0.25, 0.0])
OPTIONS = {"temperature": 0.7, "preference": (4.0, 1.0, 1.0), "ideal": tuple(IDEAL)}


def soft_maximum(value: Array, temperature: float = 0.7) -> Array:
    top = value.real.max()
    return top + temperature * np.log(np.sum(np.exp((value - top) / temperature)))


def test_is_the_derivative_of_a_soft_maximum() -> None:
    losses = np.random.default_rng(0).normal(size=(6, 3))
    wanted = slopes(lambda x: soft_maximum(LIKING * (x - IDEAL)), losses)
    np.testing.assert_allclose(each(STCH(**OPTIONS, scale="mean"), losses), wanted, rtol=1e-4)


def test_warm_up_measures_the_nadir_in_its_last_fifth() -> None:
    rng = np.random.default_rng(1)
    losses = IDEAL + rng.lognormal(size=(14, 3)) * np.array([1e-3, 1.0, 1e3])
    active = np.ones((14, 3), bool)
    active[9, 1] = active[12, 2] = False
    found = run(STCH(**OPTIONS, warm_up=10), losses * active, active)
    gone = losses - IDEAL
    np.testing.assert_allclose(found[:9], LIKING / gone[:9], rtol=1e-3)
    nadir = np.array([gone[8:10, 0].mean(), gone[8, 1], gone[8:10, 2].mean()])
    for step in (10, 11, 13):
        wanted = slopes(
            lambda x: 3 * soft_maximum(LIKING * np.log((x - IDEAL) / nadir)), losses[[step]]
        )
        np.testing.assert_allclose(found[[step]], wanted, rtol=1e-3)
    assert found[12, 2] == 0


def test_a_nadir_never_measured_and_a_loss_of_zero() -> None:
    active = np.array([[True, False], [True, True], [True, True]])
    found = run(STCH(warm_up=1), [[2.0, 0.0], [4.0, 8.0], [0.0, 8.0]], active)
    np.testing.assert_allclose(found[1], 2 * np.array([2, 1]) / 3 / [4, 8], rtol=1e-5)
    np.testing.assert_allclose(found[2], [0, 2 / 8], rtol=1e-5)


@pytest.mark.parametrize("law", ["finite", "permutation", "inactive", "batch", "state", "config"])
def test_laws_hold_with_a_warm_up(law: str) -> None:
    check(WARM, law)


WARM = Trial(STCH(warm_up=2), compiled)
