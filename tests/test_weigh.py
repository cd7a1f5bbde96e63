"""`pt.weigh`: the maths alone, and what it refuses."""

import numpy as np
import pytest
from keras import ops

import polytape as pt

GOOD = [[2.0, -1.0], [-1.0, 3.0]]

REFUSED = {
    "neither": ({}, r"pt.weigh needs a Gramian, losses, or both. Received neither"),
    "no Gramian": ({"losses": [1.0, 2.0]}, r"MGDA weighs gradients: it needs a Gramian"),
    "not square": (
        {"gramian": np.ones((2, 3))},
        r"A Gramian is square.*Received shape: \(2, 3\).*it is J @ J.T",
    ),
    "a vector": ({"gramian": np.ones(3)}, r"A Gramian is square.*Received shape: \(3,\)"),
    "not symmetric": ({"gramian": [[1.0, 0.5], [0.0, 1.0]]}, r"The Gramian is not symmetric"),
    "not psd": (
        {"gramian": [[1.0, 2.0], [2.0, 1.0]]},
        r"not positive semi-definite: its lowest eigenvalue is -1, its largest entry 2",
    ),
    "nan": ({"gramian": [[float("nan"), 0.0], [0.0, 1.0]]}, r"entries that are not finite"),
    "inf": ({"gramian": [[float("inf"), 0.0], [0.0, 1.0]]}, r"entries that are not finite"),
    "other losses": (
        {"gramian": GOOD, "losses": [1.0, 2.0, 3.0]},
        r"Expected a Gramian of shape \(3, 3\), one row per loss. Received: \(2, 2\)",
    ),
    "losses are no list": (
        {"gramian": GOOD, "losses": 1.0},
        r"losses of shape \(..., T\), one per objective. Received: \(\)",
    ),
    "other names": (
        {"gramian": GOOD, "names": ["a", "b", "c"]},
        r"Expected 2 names, one per objective. Received: \('a', 'b', 'c'\)",
    ),
    "other active": (
        {"gramian": GOOD, "active": [True]},
        r"Expected `active` of shape \(2,\).*Received shape: \(1,\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    given, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        pt.weigh(pt.MGDA(), **given)


def test_state_of_another_size_is_refused() -> None:
    method = pt.Smoothed(pt.Normalize())
    _, state = pt.weigh(method, GOOD)
    with pytest.raises(
        ValueError, match=r"The state does not belong .* expected .*\(3,\).*Received: .*\(2,\)"
    ):
        pt.weigh(method, np.eye(3), state=state)


def test_rounding_is_not_refused() -> None:
    rows = np.float32(np.random.default_rng(0).normal(size=(5, 3)) * 1e-9)
    weights, _ = pt.weigh("normalize", rows @ rows.T)
    expected = 1 / np.linalg.norm(rows.astype("float64"), axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(weights), expected, rtol=1e-4)


def test_inactive_objectives_weigh_nothing_and_are_not_seen() -> None:
    gramian = np.array([[2.0, 9.0, -1.0], [9.0, 50.0, 9.0], [-1.0, 9.0, 3.0]])
    gramian = np.diag([0.0, 400.0, 0.0]) + gramian
    weights, _ = pt.weigh("mgda", gramian, active=[True, False, True])
    alone, _ = pt.weigh("mgda", GOOD)
    found = ops.convert_to_numpy(weights)
    assert found[1] == 0
    np.testing.assert_allclose(found[[0, 2]], ops.convert_to_numpy(alone), rtol=1e-5)


def test_a_stack_of_gramians_is_weighed_one_by_one() -> None:
    other = [[1.0, 0.2], [0.2, 5.0]]
    both, _ = pt.weigh("pcgrad", [GOOD, other])
    for found, gramian in zip(ops.convert_to_numpy(both), (GOOD, other), strict=True):
        alone, _ = pt.weigh("pcgrad", gramian)
        np.testing.assert_allclose(found, ops.convert_to_numpy(alone), rtol=1e-5)


def test_state_goes_in_and_comes_out() -> None:
    method = pt.Smoothed(pt.Normalize(), decay=0.75)
    _, state = pt.weigh(method, [[1.0]])
    weights, _ = pt.weigh(method, [[16.0]], state=state)
    assert float(weights[0]) == 0.75 * 1.0 + 0.25 * 0.25
