"""Faults at random steps of a long training: it ends where one ends that had no labels there."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from small import LOSSES, data, everything, model

pytestmark = [pytest.mark.engine, pytest.mark.compiled]
STEPS, SAMPLES = 500, 4
RNG = np.random.default_rng(0)
BAD = {"a": RNG.random(STEPS) < 0.2, "b": RNG.random(STEPS) < 0.1}  # now and then both
METHODS = {"sum": "sum", "upgrad": "upgrad", "dwa": pt.DWA(steps=1)}
if keras.backend.backend() == "torch":  # eager, 500 steps take long
    METHODS = {"upgrad": "upgrad"}


def trained(combine: Any, fault: float) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Everything after a training in which targets are spoilt, or missing, at the bad steps."""
    found = model(busy=False)
    found.compile(
        keras.optimizers.Adam(0.01), LOSSES, combine=combine, on_nonfinite="isolate", verbose=0
    )
    x, y = data(STEPS * SAMPLES)
    for name, bad in BAD.items():
        y[name] = y[name].copy()
        y[name][np.repeat(bad, SAMPLES)] = fault
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logs = found.fit(x, y, batch_size=SAMPLES, shuffle=False, verbose=0).history
    return everything(found), logs


@pytest.mark.parametrize(
    "combine", ["sum", "upgrad", pt.DWA(steps=1)], ids=["sum", "upgrad", "dwa"]
)
def test_500_steps(combine: Any) -> None:
    (faulty, logs), (missing, _) = trained(combine, np.inf), trained(combine, np.nan)
    assert logs["dropped"] == [sum(int(bad.sum()) for bad in BAD.values())]
    for one, other in zip(faulty, missing, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
