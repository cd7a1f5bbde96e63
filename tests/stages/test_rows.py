"""Every stage against plain NumPy on the rows themselves: the Gramian picture loses nothing."""

import numpy as np
import pytest
from keras.optimizers import schedules

import polytape as pt
from linear import Array, random_rows, updates

pytestmark = pytest.mark.engine
ROWS = random_rows()
LOSSES = np.array([sum(rows[t].sum() for rows in ROWS.values()) for t in range(3)])
Parts = list[Array]  # one array per variable


def row(t: int, rows: dict[str, Parts] = ROWS) -> Parts:
    return [columns[t] for columns in rows.values()]


def norm(parts: Parts) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in parts)))


def times(factor: float, parts: Parts) -> Parts:
    return [factor * part for part in parts]


def add(*rows: Parts) -> Parts:
    return [sum(parts) for parts in zip(*rows, strict=True)]


def unit(parts: Parts) -> Parts:
    return times(1 / norm(parts), parts)


def clipped(parts: Parts, longest: float) -> Parts:
    return times(min(1.0, longest / norm(parts)), parts)


def each(parts: Parts, function: object) -> Parts:
    """`function` on every variable by itself."""
    return [function([part])[0] for part in parts]


def by_network(parts: Parts, function: object) -> Parts:
    return [*function(parts[:2]), *function(parts[2:])]


ALL = [row(t) for t in range(3)]
TOTAL = add(*ALL)
UNITS = [unit(r) for r in ALL]

CASES = {
    "normalize": (pt.Normalize(), add(*UNITS)),
    "normalize by loss": (
        pt.Normalize(by="loss"),
        add(*[times(1 / abs(LOSSES[t]), ALL[t]) for t in range(3)]),
    ),
    "normalise then average": (pt.Chain(pt.Normalize(), pt.Mean()), times(1 / 3, add(*UNITS))),
    "clip each, sum": (pt.Clip(1.0), add(*[clipped(r, 1.0) for r in ALL])),
    "clip each, average": (
        pt.Chain(pt.Clip(1.0), pt.Mean()),
        times(1 / 3, add(*[clipped(r, 1.0) for r in ALL])),
    ),
    "sum then clip": (pt.GlobalClip(pt.Sum(), 0.7), clipped(TOTAL, 0.7)),
    "sum, clip does not bite": (pt.GlobalClip(pt.Sum(), 1e3), TOTAL),
    "mean then clip": (
        pt.GlobalClip(pt.Mean(), 0.7),
        clipped(times(1 / 3, TOTAL), 0.7),
    ),
    "named weights": (
        pt.Reweight({"a": 0.5, "c": -2.0}),
        add(times(0.5, ALL[0]), ALL[1], times(-2.0, ALL[2])),
    ),
    "alpha blend": (
        pt.Chain(pt.Normalize(), pt.Reweight({"a": 0.3, "b": 0.7, "c": 0.0})),
        add(times(0.3, UNITS[0]), times(0.7, UNITS[1])),
    ),
    "weights, then clip each, then sum": (
        pt.Chain(pt.Reweight({"b": 5.0}), pt.Clip(0.8), pt.Sum()),
        add(*[clipped(times(w, r), 0.8) for w, r in zip((1, 5, 1), ALL, strict=True)]),
    ),
    "units, weights, sum, clip": (
        pt.GlobalClip(pt.Chain(pt.Normalize(), pt.Reweight({"a": 2.0})), 0.5),
        clipped(add(times(2.0, UNITS[0]), UNITS[1], UNITS[2]), 0.5),
    ),
    "clip_by_norm of every variable": (
        pt.PerVariable(pt.GlobalClip(pt.Sum(), 0.7)),
        each(TOTAL, lambda parts: clipped(parts, 0.7)),
    ),
    "l2_normalize of every variable, then sum": (
        pt.PerVariable(pt.Normalize()),
        add(*[each(r, unit) for r in ALL]),
    ),
    "unit rows per network": (
        pt.PerNetwork(pt.Normalize()),
        add(*[by_network(r, unit) for r in ALL]),
    ),
    "clip each row per network": (
        pt.PerNetwork(pt.Clip(0.6)),
        add(*[by_network(r, lambda parts: clipped(parts, 0.6)) for r in ALL]),
    ),
    "per variable, then one bound on everything": (
        pt.GlobalClip(pt.PerVariable(pt.Normalize()), 0.5),
        clipped(add(*[each(r, unit) for r in ALL]), 0.5),
    ),
    "unit rows, then clip per variable": (
        pt.Chain(pt.Normalize(), pt.PerVariable(pt.Clip(0.4))),
        add(*[each(unit(r), lambda parts: clipped(parts, 0.4)) for r in ALL]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_stage_is_exact_on_the_rows(name: str) -> None:
    method, expected = CASES[name]
    for found, part in zip(updates(method, ROWS), expected, strict=True):
        np.testing.assert_allclose(found, part, rtol=2e-5, atol=2e-6)


def test_smoothed_averages_weights_over_steps() -> None:
    steps = [random_rows(seed) for seed in range(3)]
    weights = [np.array([1 / norm(row(t, rows)) for t in range(3)]) for rows in steps]
    average = weights[0]
    for fresh in weights[1:]:
        average = 0.6 * average + 0.4 * fresh
    found = updates(pt.Smoothed(pt.Normalize(), decay=0.6), *steps)
    expected = add(*[times(average[t], row(t, steps[-1])) for t in range(3)])
    for part, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, right, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("last", "asked"), [(0, 0), (1, 0), (2, 2), (3, 2)])
def test_every_reuses_weights_in_between(last: int, asked: int) -> None:
    steps = [random_rows(seed) for seed in range(last + 1)]
    found = updates(pt.Every(pt.Normalize(), steps=2), *steps)
    weights = [1 / norm(row(t, steps[asked])) for t in range(3)]
    expected = add(*[times(weights[t], row(t, steps[last])) for t in range(3)])
    for part, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, right, rtol=2e-5, atol=2e-6)


def test_schedule_follows_the_step_count() -> None:
    fade = schedules.PiecewiseConstantDecay([0, 1], [4.0, 2.0, 0.5])
    for count, weight in ((1, 4.0), (2, 2.0), (3, 0.5)):
        found = updates(pt.Reweight({"b": fade}), *[ROWS] * count)
        expected = add(ALL[0], times(weight, ALL[1]), ALL[2])
        for part, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(part, right, rtol=2e-5, atol=2e-6)


def test_in_a_scope_only_those_take_part_who_reach_the_block() -> None:
    rows = random_rows()
    rows["decoder/kernel"][2] = None
    found = updates(pt.PerVariable(pt.Mean()), rows)
    three, two = rows["encoder/kernel"], rows["decoder/kernel"][:2]
    np.testing.assert_allclose(found[0], sum(three) / 3, rtol=1e-5)
    np.testing.assert_allclose(found[2], sum(two) / 2, rtol=1e-5)


def test_leading_loss_weights_reach_private_variables_and_gradient_weights_do_not() -> None:
    rows = random_rows()
    rows["decoder/kernel"][0] = rows["decoder/kernel"][1] = None  # private to c
    own = rows["decoder/kernel"][2]
    weigh, clip = pt.Reweight({"c": 0.25}), pt.Clip(1e-3)
    np.testing.assert_allclose(updates(weigh, rows)[2], 0.25 * own, rtol=1e-5)
    np.testing.assert_allclose(updates(pt.Chain(weigh, clip), rows)[2], 0.25 * own, rtol=1e-5)
    np.testing.assert_allclose(updates(clip, rows)[2], own, rtol=1e-5)


def test_constant_weights_wait_for_no_loss() -> None:
    chain = pt.Chain(pt.Reweight({"a": 0.5}), pt.Sum())
    assert chain.constant
    assert not pt.Chain(chain, pt.Mean()).constant
    names = ("a", "b", "c")
    whole, _ = pt.weigh(chain, losses=[1.0, 2.0, 3.0], names=names)
    for active in ([True, False, True], [False, False, True]):
        found, _ = pt.weigh(chain, losses=[9.0, -4.0, 0.0], names=names, active=active)
        np.testing.assert_array_equal(np.asarray(found), np.where(active, np.asarray(whole), 0))
