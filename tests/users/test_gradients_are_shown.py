"""Gradients at the prompt: losses, norms and cosines; in a trace, what is known of them there."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import COMPILES, compiled
from polytape.engines import engine

pytestmark = pytest.mark.engine

VALUES = """\
Gradients of 2 objectives by 2 variables, 1 shared
       loss   norm   cos a  cos bb
a         1      2   1.000  -0.894
bb  -0.5001  2.236  -0.894   1.000"""

SHAPES = """\
Gradients of 2 objectives by 2 variables, 1 shared; being traced, without values yet
a   loss () float32, reaches w (2,)
bb  loss () float32, reaches w (2,), b (1,)"""


def taken(w: Any, b: Any, **settings: Any) -> pt.Gradients:
    losses = lambda: {"a": w[0] ** 2, "bb": 1.5 - w[0] * w[1] - b[0]}  # noqa: E731
    return pt.gradients(losses, [w, b], **settings)


@pytest.fixture
def variables() -> list[Any]:
    values = {"w": [1.0, 2.0], "b": [1e-4]}
    return [keras.Variable(value, name=name) for name, value in values.items()]


def test_values(variables: list[Any]) -> None:
    assert repr(taken(*variables)) == VALUES
    assert str(taken(*variables)) == VALUES


def test_a_loss_scale_does_not_show(variables: list[Any]) -> None:
    assert repr(taken(*variables, scale=1024.0)) == VALUES


def test_a_trace_shows_shapes_and_computes_nothing(variables: list[Any]) -> None:
    told: list[str] = []
    untouched: list[bool] = []

    def step(values: list[Any]) -> Any:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            grads = taken(*variables)
            told.append(repr(grads))
            untouched.append("gramian" not in vars(grads))
            return grads["a"][0]

    compiled(step, xla=False)([variable.value for variable in variables])
    assert set(told) == {SHAPES if COMPILES else VALUES}
    assert set(untouched) == {COMPILES}


def test_torch_tells_tensors_without_numbers() -> None:
    if keras.backend.backend() == "torch":
        import torch

        assert not engine().has_value(torch.zeros((), device="meta"))
    assert engine().has_value(ops.zeros(()))


def test_measured_at_features() -> None:
    w, v = keras.Variable([1.0, 2.0], name="w"), keras.Variable([3.0], name="v")
    mark = pt.Features()

    def losses() -> dict[str, Any]:
        h = mark(ops.reshape(w * 2.0, (1, 2)))[0]
        return {"a": h[0] + 0.0 * v[0], "b": h[0] + h[1]}

    found = repr(pt.gradients(losses, [w, v], measure="features"))
    assert found.splitlines()[0] == "Gradients of 2 objectives by 2 variables, 1 shared"
    assert found.splitlines()[2].split() == ["a", "2", "1", "1.000", "0.707"]


def test_one_objective(variables: list[Any]) -> None:
    w = variables[0]
    assert repr(pt.gradients(lambda: {"only": w[0] * w[1]}, [w])) == (
        "Gradients of 1 objective by 1 variable, 1 shared\n      loss   norm\nonly     2  2.236"
    )


def test_what_is_not_finite(variables: list[Any]) -> None:
    w = variables[0]
    losses = {"a": lambda: w[0] * np.float32("nan"), "b": lambda: w[1] * 1.0}
    found = repr(pt.gradients(lambda: {name: loss() for name, loss in losses.items()}, [w]))
    assert [line.split()[:3] for line in found.splitlines()[2:]] == [
        ["a", "nan", "nan"],
        ["b", "2", "1"],
    ]


def test_many_objectives() -> None:
    """Nine or more: the one that is most opposed; the first sixteen."""
    w = keras.Variable(np.ones(18, "float32"))
    names = [f"t{index}" for index in range(18)]

    def losses() -> dict[str, Any]:
        found = {name: w[index] + 0.0 for index, name in enumerate(names)}
        return {**found, "t2": -w[5] - w[2]}

    lines = repr(pt.gradients(losses, [w])).splitlines()
    assert lines[1].split() == ["loss", "norm", "lowest", "cos", "with"]
    assert lines[7].split() == ["t5", "1", "1", "-0.707", "t2"]
    assert lines[4].split() == ["t2", "-2", "1.414", "-0.707", "t5"]
    assert lines[-1] == "... and 2 objectives more"
    assert len(lines) == 2 + 16 + 1
    assert max(map(len, lines)) < 60
