"""IMTL-L against a plain loop in float64."""

import numpy as np

import polytape as pt
from polytape.methods.imtl_l import IMTLL
from stepping import Adam, run


def test_follows_a_plain_loop_with_labels_missing() -> None:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(size=(30, 3)) * np.array([1e-2, 1.0, 50.0])
    active = rng.uniform(size=losses.shape) < 0.7
    s, adam, wanted = np.zeros(3), Adam(3, 0.1), []
    for loss, mask in zip(losses, active, strict=True):
        wanted.append(mask * np.exp(s))
        s = s + adam.step(np.exp(s) * loss - 1, mask)
    found = run(IMTLL(rate=0.1), losses, active)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(found, 2 * run(pt.UW(rate=0.1), losses, active), rtol=1e-4)


def test_steady_losses_are_brought_to_one() -> None:
    losses = np.array([0.05, 1.0, 8.0])
    found = run(IMTLL(rate=0.05), np.tile(losses, (300, 1)))
    np.testing.assert_allclose(found[-1] * losses, 1, rtol=0.02)


def test_without_a_best_weight_it_grows_to_its_limit() -> None:
    found = run(IMTLL(rate=1.0), np.tile([0.0, -1e30, 1e30], (100, 1)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[-1, :2], np.exp(40.0), rtol=1e-3)
