"""Advice comes with its evidence, and not without."""

import math
from typing import Any

import numpy as np
import pytest

from monitored import monitored
from polytape.diagnostics.advice import STEPS, Measured, advise
from polytape.diagnostics.monitor_advice import advice_of


def figures(steps: int = 1, **given: Any) -> Measured:
    """Two objectives that are alike and get on."""
    ones = np.ones((steps, 2))
    cosines = np.tile([[1.0, 0.5], [0.5, 1.0]], (steps, 1, 1))
    usual = {"norms": ones, "cosines": cosines, "shares": 0.5 * ones, "losses": ones}
    return Measured(
        **{"objectives": ("a", "b"), "method": "UPGrad", "single_pass": True} | usual | given
    )


def opposed(steps: int, cosine: float) -> np.ndarray:
    return np.tile([[1.0, cosine], [cosine, 1.0]], (steps, 1, 1))


def texts(measured: Measured) -> list[str]:
    return [str(each) for each in advise(measured)]


def test_nothing_without_a_reason() -> None:
    assert texts(figures()) == texts(figures(50)) == []
    assert texts(figures(0, norms=np.zeros((0, 2)))) == []


def test_scales() -> None:
    apart = {"norms": np.array([[400.0, 1.0]]), "shares": np.array([[0.99, 0.01]])}
    (text,) = texts(figures(**apart))
    assert text.startswith(
        "The gradient of 'a' is 400 times as long as that of 'b' and makes up 99 %"
    )
    assert "combine=pt.Chain(pt.Normalize(), pt.UPGrad())" in text
    assert texts(figures(**apart | {"shares": np.array([[0.5, 0.5]])})) == []  # balanced already
    assert texts(figures(**apart | {"norms": np.array([[400.0, np.nan]])})) == []
    assert texts(figures(**apart | {"norms": np.array([[99.0, 1.0]])})) == []


def test_the_loser() -> None:
    shares = np.tile([[1.2, -0.2]], (STEPS, 1))
    (text,) = texts(figures(STEPS, shares=shares))
    assert f"'b' had a negative share of the update in {STEPS} of {STEPS} steps" in text
    assert texts(figures(STEPS - 1, shares=shares[1:])) == []
    mixed = shares.copy()
    mixed[: STEPS // 2] = 0.5
    assert texts(figures(STEPS, shares=mixed)) == []


def test_negative_transfer() -> None:
    steps = 3 * STEPS
    losses = np.stack([np.linspace(1, 0, steps), np.linspace(1, 2, steps)], axis=1)
    (text,) = texts(figures(steps, losses=losses, cosines=opposed(steps, -0.4)))
    assert text.startswith("The loss of 'b' rose from 1.16 to 1.84")
    assert "negative transfer is to be suspected" in text.lower()
    assert texts(figures(steps, losses=losses)) == []  # nobody is against it
    assert texts(figures(steps, cosines=opposed(steps, -0.4))) == []  # it does not rise


def test_no_conflict() -> None:
    (text,) = texts(figures(STEPS, single_pass=False))
    assert text.startswith(
        f"No two gradients were in conflict in {STEPS} steps (lowest cosine +0.50)"
    )
    once = opposed(STEPS, 0.5)
    once[3] = opposed(1, -0.01)[0]
    assert texts(figures(STEPS, single_pass=False, cosines=once)) == []
    assert texts(figures(STEPS, single_pass=True)) == []
    unknown = np.full((STEPS, 2, 2), np.nan)
    assert texts(figures(STEPS, single_pass=False, cosines=unknown)) == []


def test_conflict_in_few_places() -> None:
    places = {f"layer {n}": opposed(1, 0.3) for n in range(5)} | {"neck": opposed(1, -0.8)}
    (text,) = texts(figures(places=places))
    assert text.startswith("The conflict lies in 1 of 6 places: 'neck' (cosine -0.80)")
    assert "combine=pt.PerVariable(pt.UPGrad())" in text
    assert texts(figures(places=places, method="PerVariable")) == []
    assert texts(figures(places={name: opposed(1, -0.8) for name in places})) == []
    assert texts(figures(places=places | {"more": opposed(1, -0.05)})) == []  # not so clear


@pytest.mark.parametrize(
    ("ratio", "said"), [(30.0, "30 times as long as"), (0.02, "1/50 of the length of"), (3.0, "")]
)
def test_a_scale_of_its_own(ratio: float, said: str) -> None:
    found = texts(figures(method="NashMTL", stretch=np.array([ratio])))
    assert len(found) == bool(said)
    assert all(
        f"The update of NashMTL is {said} the sum of the gradients" in text for text in found
    )
    assert texts(figures(stretch=np.array([math.nan]))) == []


def test_of_a_monitored_training() -> None:
    method = {"name": "UPGrad", "needs": "gradients", "settings": {}}
    assert advice_of(monitored(method=method)) == []  # gradients at random
    run = monitored(method=method)
    for record in run.steps:
        for row in record.gramian:
            row[:] = [abs(product) for product in row]
    (found,) = advice_of(run)
    assert found.evidence.startswith("No two gradients were in conflict in 40 steps")
    for record in run.steps:
        record.share["left"] = -0.1
    assert [each.evidence[:32] for each in advice_of(run)] == [
        "'left' had a negative share of t",
        "No two gradients were in conflic",
    ]
