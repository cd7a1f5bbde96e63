"""The routing table as people see it: what is printed when, and that it fits the terminal."""

from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt

pytestmark = pytest.mark.engine

X = np.random.default_rng(3).normal(size=(4, 4)).astype("float32")
Y = dict.fromkeys(("a", "b", "early"), X[:, :1])


def deep(layers: int = 8) -> pt.Model:
    """A trunk with layers that have no variables among them, two heads, and one on the way."""
    hidden = inputs = keras.Input((4,))
    for number in range(layers):
        hidden = keras.layers.Dense(4, name=f"dense_{number}")(hidden)
        if number % 3 == 0:
            hidden = keras.layers.Reshape((4,))(hidden)
        if number == layers // 2:
            early = keras.layers.Dense(1, name="early")(hidden)
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in "ab"}
    return pt.Model(inputs, {**heads, "early": early})


def compiled(model: pt.Model, optimizer: Any = "sgd", verbose: int = 1, **trains: Any) -> pt.Model:
    objectives = [pt.Objective(name, "mse", trains=trains.get(name)) for name in Y]
    model.compile(optimizer, objectives=objectives, verbose=verbose, run_eagerly=True)
    return model


def words(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines() if "─" not in line]


@pytest.fixture(scope="module")
def trained() -> pt.Model:
    model = compiled(deep())
    model.fit(X, Y, verbose=0)
    return model


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")


def test_layers_that_are_routed_alike_share_a_column(trained: pt.Model) -> None:
    table = trained.routing_table()
    title, *rows = words(table)
    joined = ["dense_0", "…", "dense_4", "(5)", "dense_5", "…", "dense_7", "(3)"]
    assert title == ["objective", "weight", *joined, "a", "b", "early"]
    assert rows[0] == ["a", "1", "●", "●", "●", "·", "·"]
    assert rows[2] == ["early", "1", "●", "·", "·", "·", "●"]
    assert table.splitlines()[-1] == "● trained   · not trained   optimizer: SGD 0.01"
    assert max(map(len, table.splitlines())) <= 90


def test_with_room_every_layer_that_has_variables_has_one(
    trained: pt.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    layers = [f"dense_{number}" for number in range(8)]
    assert words(trained.routing_table())[0] == ["objective", "weight", *layers, "a", "b", "early"]


def test_with_norms_layers_become_rows(trained: pt.Model) -> None:
    table = trained.routing_table(X, Y)
    title, weights, *rows = words(table)
    assert title == ["network", "a", "b", "early"]
    assert weights == ["weight", "1", "1", "1"]
    found = {row[0]: row[1:] for row in rows}
    assert list(found)[:11] == [*(f"dense_{n}" for n in range(8)), "a", "b", "early"]
    assert found["dense_7"][4] == "·"
    assert float(found["dense_7"][1]) > 0
    assert max(map(len, table.splitlines())) <= 90


def test_what_does_not_fit_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"objective_{number}" for number in range(9)]
    routes = [[f"dense_{j}" for j in range(8) if (j * 7 + k) % 3] for k in range(9)]
    given = [
        pt.Objective(name, "mse", trains=trains, output="a", target="a")
        for name, trains in zip(names, routes, strict=True)
    ]
    model = deep()
    model.compile("sgd", objectives=given, verbose=0)
    table = model.routing_table()
    lines = table.splitlines()
    assert max(map(len, lines)) <= 90
    titles = [line.split()[1:] for line in lines if line.split()[:1] == ["network"]]
    assert [len(title) for title in titles] == [5, 4]
    assert [name for title in titles for name in title] == names


def test_the_first_step_shows_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    model = compiled(deep(2), a=["dense_0", "a"])
    declared = capsys.readouterr().out
    assert declared == model.routing_table() + "\n"
    assert "? trained if reached" in declared
    model.fit(X, Y, verbose=0, epochs=2)
    found = capsys.readouterr().out
    assert found == f"\nThe first step found:\n{model.routing_table()}\n"
    assert "?" not in found
    assert "○ reached, but not on its route" in found


def test_it_is_not_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    model = compiled(deep(2))  # nobody said who trains what
    model.fit(X, Y, verbose=0)
    compiled(model, verbose=0, a=["dense_0", "a"]).fit(X, Y, verbose=0)
    assert capsys.readouterr().out == ""
    compiled(model, {"dense_0": "adam", "*": "sgd"})
    assert "Adam 0.001" in capsys.readouterr().out
    compiled(model, verbose=2)
    assert "dense_0" in capsys.readouterr().out


def test_a_large_network_takes_a_few_lines() -> None:
    hidden = inputs = keras.Input((4,))
    for number in range(1, 13):
        hidden = keras.layers.Dense(4, use_bias=False, name=f"block_{number}_expand")(hidden)
        hidden = keras.layers.BatchNormalization(name=f"block_{number}_norm")(hidden)
        hidden = keras.layers.ReLU(name=f"block_{number}_relu")(hidden)
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in ("age", "size")}
    model = pt.Model(inputs, heads)
    size = pt.Objective("size", "mse", trains=["size", "block_1*"], weight=0.5)
    model.compile("adam", objectives=[pt.Objective("age", "mse"), size], verbose=0)
    table = model.routing_table()
    title, weights, *rows = words(table)
    assert title == ["network", "age", "size"]
    assert weights == ["weight", "1", "0.5"]
    assert rows[:4] == [
        ["block_1_expand", "…", "block_1_norm", "(2)", "?", "●"],
        ["block_2_expand", "…", "block_9_norm", "(16)", "?", "·"],
        ["block_10_expand", "…", "block_12_norm", "(6)", "?", "●"],
        ["age", "?", "·"],
    ]
    assert max(map(len, table.splitlines())) <= 90
