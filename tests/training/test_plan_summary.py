"""What a step costs, as `plan_summary` tells it."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import polytape as pt

pytestmark = pytest.mark.engine
WIDE, BATCH, T = 256, 4, 3


def trained(capsys: Any = None, wide: bool = True, **settings: Any) -> tuple[Any, str]:
    """A model after its first step, and what was printed."""
    units = WIDE if wide else 8
    inputs = hidden = keras.Input((units,))
    hidden = layers.Dense(units, "tanh", name="trunk")(hidden)
    found = pt.Model(inputs, {f"t{t}": layers.Dense(2, name=f"t{t}")(hidden) for t in range(T)})
    found.compile("sgd", "mse", **{"combine": "upgrad", "verbose": 2, **settings})
    y = {f"t{t}": np.ones((BATCH, 2)) for t in range(T)}
    found.train_on_batch(np.ones((BATCH, units)), y)
    return found, capsys.readouterr().out if capsys else ""


def test_says_what_was_chosen_and_what_else_would_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found, printed = trained(capsys)
    trunk, head = WIDE * WIDE, T * WIDE * 2  # products with each example
    one = 3 * (trunk + head)
    rows = (trunk + head) + 2 * (T * trunk + head)
    noted = (trunk + head) + (T + 1) * trunk + BATCH * T * (T + 1) * WIDE + 2 * head
    text = found.plan_summary()
    assert printed.strip() == text
    first, *lines = text.splitlines()
    assert first == f"UPGrad of {T} objectives, {WIDE * (WIDE + 1) + T * 2 * (WIDE + 1):,} weights"
    works = {line.split("  ")[1 if line[0] == "→" else 2].strip(): line for line in lines[2:5]}
    expected = {
        "one backward pass": (1.0, "0 bytes"),
        "a gradient per objective": (rows / one, "789.5 kB"),
        "what comes back to layers per objective, compared without gradients": (
            noted / one,
            "12.3 kB",
        ),
    }
    assert works.keys() == expected.keys()
    for name, (work, memory) in expected.items():
        assert works[name].split(name)[1].split() == [f"{work:.2f}", *memory.split()], name
    assert [name for name, line in works.items() if line[0] == "→"] == [[*expected][2]]


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"wide": False}, "a gradient per objective"),
        ({"memory": "high"}, "a gradient per objective"),
        ({"combine": "moco"}, "a gradient per objective"),
        (
            {"combine": pt.Every(pt.MGDA(), 5), "wide": False},
            "a gradient per objective, every 5",
        ),
        ({"combine": pt.MConFIG()}, "one of them per objective in turn"),
    ],
)
def test_the_way_of_other_methods(settings: dict[str, Any], chosen: str) -> None:
    found, _ = trained(**settings, verbose=0)
    (line,) = [line for line in found.plan_summary().splitlines() if line.startswith("→")]
    assert line.removeprefix("→").strip().startswith(chosen)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="others loop over no objectives")
def test_many_objectives_in_a_loop() -> None:
    inputs = hidden = keras.Input((8,))
    for _ in range(3):
        hidden = layers.Dense(64, "tanh")(hidden)
    names = [f"t{t}" for t in range(16)]
    found = pt.Model(inputs, {name: layers.Dense(1, name=name)(hidden) for name in names})
    found.compile("sgd", "mse", combine="norm_balancing", verbose=0)
    found.train_on_batch(np.ones((2, 8)), dict.fromkeys(names, np.ones((2, 1))))
    assert "→   a gradient per objective, in one loop" in found.plan_summary()


def test_one_pass_needs_no_table() -> None:
    found, _ = trained(combine="sum", verbose=0)
    assert "One backward pass is all that the method needs." in found.plan_summary()


def test_before_the_first_step() -> None:
    inputs = keras.Input((3,))
    found = pt.Model(inputs, {name: layers.Dense(1, name=name)(inputs) for name in "ab"})
    with pytest.raises(RuntimeError, match=r"plan_summary\(\) comes after compile\(\)"):
        found.plan_summary()
    found.compile("sgd", "mse", combine="upgrad", verbose=0)
    assert "Work and memory are known after the first step." in found.plan_summary()
