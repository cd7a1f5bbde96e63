"""Methods that watch losses: zero, negative, tiny and huge ones, and a common factor."""

import numpy as np
import pytest

from histories import history, wandering
from polytape import LBTW, CoVWeighting, GO4Align, ReLoBRaLo, SoftAdapt
from polytape.contract import Method

METHODS = [
    CoVWeighting(),
    CoVWeighting(decay=0.5),
    LBTW(steps=3),
    LBTW(alpha=4.0),
    SoftAdapt(),
    SoftAdapt(variant="normalized", order=4),
    SoftAdapt(variant="loss-weighted", window=2),
    ReLoBRaLo(saudade=0.5, decay=0.5),
    GO4Align(),
    GO4Align(groups=3, rate=1.0),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_weights_stay_finite_and_sum_to_their_number(method: Method) -> None:
    pool = np.array([0.0, 1.0, -1.0, 1e-30, 1e30, -1e30, 3e38, -3e38, 1e-38, 0.0])
    losses = np.random.default_rng(0).choice(pool, size=(40, 4))
    active = np.random.default_rng(1).random((40, 4)) > 0.2
    active[3] = False
    found = history(method, losses, active)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found[~active] == 0).all()
    if not isinstance(method, GO4Align):
        np.testing.assert_allclose(found.sum(1), active.sum(1), rtol=1e-4)


@pytest.mark.parametrize("method", [m for m in METHODS if "scale" not in m.exempt], ids=str)
def test_a_common_factor_of_all_losses_changes_nothing(method: Method) -> None:
    losses, active = wandering(8, 3)
    plain = history(method, losses, active)
    for factor in (1e-8, 1e8):
        np.testing.assert_allclose(history(method, factor * losses, active), plain, rtol=1e-3)
