"""MetaBalance against plain loops over variables."""

import numpy as np
import pytest

import polytape as pt
from histories import history, wandering
from linear import random_rows, updates

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("strategy", ["both", "reduce", "enlarge"])
@pytest.mark.parametrize("main", [None, "c"])
def test_each_variable_has_averages_of_its_own(strategy: str, main: str | None) -> None:
    steps = [random_rows(seed) for seed in range(3)]
    for rows in steps:
        rows["encoder/bias"][1] = None  # b does not reach it
    method = pt.MetaBalance(main, strategy, relax=0.6, decay=0.7)
    found = updates(method, *steps)
    for part, path in zip(found, steps[0], strict=True):
        rows = [[columns for columns in step[path] if columns is not None] for step in steps]
        lengths = np.linalg.norm([[row.ravel() for row in step] for step in rows], axis=2)
        average = 0.0
        for length in lengths:  # as in the paper, from zero: the bias cancels
            average = 0.7 * average + 0.3 * length
        factor = average[0 if main is None else -1] / average
        if strategy != "both":
            factor = (np.minimum if strategy == "reduce" else np.maximum)(factor, 1.0)
        right = np.tensordot(0.6 * factor + 0.4, rows[-1], axes=1)
        np.testing.assert_allclose(part, right, rtol=1e-4, atol=1e-6)


def test_without_the_main_objective_nothing_changes() -> None:
    rows = random_rows()
    rows["decoder/kernel"][0] = None
    found = updates(pt.MetaBalance(), rows)
    np.testing.assert_allclose(found[2], sum(rows["decoder/kernel"][1:]), rtol=1e-5)
    assert np.abs(found[0] - sum(rows["encoder/kernel"])).max() > 0.1


def test_labels_missing_leave_averages_as_they_are() -> None:
    lengths, active = wandering(8, 3, seed=2)
    active[:2] = True
    active[-1] = [False, True, True]
    rows = (lengths * active)[..., None] * np.eye(3)
    method = pt.MetaBalance(relax=1.0, decay=0.8, per=None)
    found = history(method, lengths, active, rows)
    average = [
        np.average(seen, weights=0.8 ** np.arange(len(seen))[::-1])
        for seen in (lengths[active[:, t], t] for t in range(3))
    ]
    np.testing.assert_allclose(found[-1], active[-1] * average[0] / average, rtol=1e-5)


def test_an_unknown_main_objective_is_refused() -> None:
    with pytest.raises(ValueError, match=r"main='d'\): no objective of that name. Obj.*'a', 'b'"):
        pt.MetaBalance("d").init(("a", "b"))
