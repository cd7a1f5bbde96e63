"""Gradients averaged, normalised or clipped: `combine` and optimizers against the arithmetic."""

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers, ops

import polytape as pt
from by_hand import (
    QUICK,
    RATE,
    Networks,
    added,
    apply,
    assert_alike,
    averaged,
    gradients,
    mse,
    network,
    normal,
    run,
    train,
    twins,
    variables_of,
)

Row = list[Any]
X, Y, Z = normal(3), normal(2, seed=1), normal(1, seed=2)
LIMIT = 0.3


def body_and_heads() -> Networks:
    body = network(3, layers.Dense(4, activation="relu"))
    return {"body": body, "near": network(4, 2), "far": network(4, 1)}


def on_top(networks: Networks, x: Any) -> dict[str, Any]:
    hidden = networks["body"](x)
    return {"near": networks["near"](hidden), "far": networks["far"](hidden)}


def squares(row: Row) -> Any:
    return sum(ops.sum(ops.square(g)) for g in row if g is not None)


def scaled(row: Row, factor: Callable[[Any], Any]) -> Row:
    return [None if g is None else g * factor(g) for g in row]


def unit_tensors(row: Row) -> Row:
    return scaled(row, lambda g: ops.rsqrt(ops.sum(ops.square(g))))


def unit(row: Row) -> Row:
    return scaled(row, lambda g: ops.rsqrt(squares(row)))


def short_tensors(row: Row) -> Row:
    return scaled(row, lambda g: LIMIT / ops.maximum(ops.sqrt(squares([g])), LIMIT))


def short(row: Row) -> Row:
    return scaled(row, lambda g: LIMIT / ops.maximum(ops.sqrt(squares(row)), LIMIT))


def small_numbers(row: Row) -> Row:
    return [None if g is None else ops.clip(g, -LIMIT / 10, LIMIT / 10) for g in row]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[..., Row]]] = {
    "mean": ({"combine": pt.PerVariable(pt.Mean())}, {}, averaged),
    "mean of unit tensors": (
        {"combine": pt.Chain(pt.PerVariable(pt.Normalize()), pt.PerVariable(pt.Mean()))},
        {},
        lambda *rows: averaged(*map(unit_tensors, rows)),
    ),
    "mean of unit gradients": (
        {"combine": pt.Chain(pt.Normalize(), pt.PerVariable(pt.Mean()))},
        {},
        lambda *rows: averaged(*map(unit, rows)),
    ),
    "sum of short gradients": (
        {"combine": pt.Clip(LIMIT)},
        {},
        lambda *rows: added(*map(short, rows)),
    ),
    "sum with short tensors": (
        {"combine": pt.PerVariable(pt.GlobalClip(pt.Sum(), LIMIT))},
        {},
        lambda *rows: short_tensors(added(*rows)),
    ),
    "short sum": (
        {"combine": pt.GlobalClip(pt.PerVariable(pt.Sum()), LIMIT)},
        {},
        lambda *rows: short(added(*rows)),
    ),
    "optimizer shortens tensors": (
        {"combine": "sum"},
        {"clipnorm": LIMIT},
        lambda *rows: short_tensors(added(*rows)),
    ),
    "optimizer shortens all": (
        {"combine": "sum"},
        {"global_clipnorm": LIMIT},
        lambda *rows: short(added(*rows)),
    ),
    "optimizer bounds numbers": (
        {"combine": "sum"},
        {"clipvalue": LIMIT / 10},
        lambda *rows: small_numbers(added(*rows)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_losses(case: str) -> None:
    combination, clipping, by_hand = CASES[case]
    mine, theirs = twins(body_and_heads)
    model = pt.Model(networks=mine, forward=on_top)
    model.compile(
        objectives=[pt.Objective("near", "mse"), pt.Objective("far", "mse")],
        optimizer=keras.optimizers.Adam(RATE, **clipping),
        private="joint",
        **combination,
        **QUICK,
    )
    train(model, X, {"near": Y, "far": Z})

    optimizer, variables = keras.optimizers.Adam(RATE), variables_of(theirs)

    def step(x: Any, y: Any, z: Any) -> None:
        def losses() -> Row:
            outputs = on_top(theirs, x)
            return [mse(y, outputs["near"]), mse(z, outputs["far"])]

        rows = gradients(losses, variables)
        assert [g is None for g in rows[0]] == [False] * 4 + [True] * 2
        assert [g is None for g in rows[1]] == [False] * 2 + [True] * 2 + [False] * 2
        apply(optimizer, by_hand(*rows), variables)

    run(step, theirs, [(optimizer, variables)], X, Y, Z)
    assert_alike(mine, theirs, (model.optimizer, optimizer))
