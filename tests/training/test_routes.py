"""What is told before or at the first step, and leaves every variable as it was."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import polytape as pt
from joined import X, Y, forward, joined, networks, objectives, rates, sparsity
from small import arrays


def never_called() -> None:
    nets = {**networks(), "critic": keras.Sequential([layers.Dense(1)])}
    model = pt.Model(networks=nets, forward=forward)
    model.compile(objectives=objectives(), optimizer="sgd", verbose=0)
    model.fit(X, Y, verbose=0)


def never_reached() -> None:
    nets = {**networks(), "critic": keras.Sequential([keras.Input((3,)), layers.Dense(1)])}
    model = pt.Model(networks=nets, forward=forward)
    model.compile(objectives=objectives(), optimizer="sgd", verbose=0)
    model.fit(X, Y, verbose=0)


def changed_flags() -> None:
    model = joined()
    model.fit(X, Y, verbose=0)
    model.networks["encoder"].trainable = False
    model.train_function = None
    model.fit(X, Y, verbose=0)


def fit(given: list[pt.Objective], targets: Any = Y, **settings: Any) -> Callable[[], Any]:
    return lambda: joined(given, **settings).fit(X, targets, verbose=0)


def mixed(**changes: Any) -> list[pt.Objective]:
    return objectives(**changes)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "route to nowhere": (
        fit(mixed(sparsity={"trains": ["encoder", "decoder"]})),
        r"Objective 'sparsity' shall train 'decoder', but no differentiable path leads from .*"
        r"It reaches 'encoder'",
    ),
    "unknown network": (
        fit(mixed(image={"trains": "decodr"})),
        r"Objective 'image' names 'decodr', which is no network.* Did you mean 'decoder'\?",
    ),
    "unknown optimizer": (
        fit(mixed(), optimizer={"encodr": "sgd", "*": "adam"}),
        r"compile\(optimizer=...\) names 'encodr', .* Did you mean 'encoder'\?",
    ),
    "no optimizer": (
        fit(mixed(), optimizer={"encoder": "sgd"}),
        r"No optimizer for 'decoder', 'head'. .* \"\*\": \"adam\"",
    ),
    "two optimizers": (
        fit(mixed(), optimizer={"encoder": "sgd", "encoder/*/kernel": "adam", "*": "sgd"}),
        r"Two optimizers, 'encoder' and 'encoder/\*/kernel', for the variable",
    ),
    "unexpected keys": (
        fit([pt.Objective("image", "mse", output="picture")]),
        r"Objective 'image' asks for the output 'picture', .* Outputs: 'code', 'image', 'label'",
    ),
    "no such target": (
        fit(mixed(), {"image": Y["image"]}),
        r"Objective 'label' asks for the target 'label', which is not there\. Targets: 'image'",
    ),
    "no targets": (
        fit(mixed(), None),
        r"Objective 'image' compares an output with a target, and fit\(\) got no targets",
    ),
    "never called": (never_called, r"Network 'critic' was declared and the forward pass never"),
    "never reached": (
        never_reached,
        r"Network 'critic' has 2 trainable variables and no objective trains them: it is not",
    ),
    "changed flags": (changed_flags, r"12 trainable variables when it was compiled and has 8 now"),
    "ranks": (
        fit(mixed(), {"image": Y["image"][:, 0], "label": Y["label"]}),
        r"Objective 'image': its target has shape .* and its output .* broadcasting",
    ),
    "one column": (
        fit(mixed(), {"image": Y["image"][:, :1], "label": Y["label"]}),
        r"Objective 'image': its target has shape .*1\) and its output .*4\).* broadcasting",
    ),
    "no scalar": (
        fit([pt.Objective("code", lambda step: step.outputs["code"])]),
        r"The loss of objective 'code' is not a scalar",
    ),
    "when": (
        fit(mixed(sparsity={"when": lambda step: step.inputs[:, 0] > 0})),
        r"Objective 'sparsity': `when` decides for the whole batch",
    ),
    "weights twice": (
        fit(mixed(image={"weight": 2.0}), combine=pt.Chain(pt.Reweight(), pt.Sum())),
        r"Objective 'image' has a weight, and `combine` has a Reweight stage",
    ),
    "a method for no network": (
        fit(mixed(), combine={"encodr": "mgda", "*": "sum"}),
        r"A method is given for the network 'encodr', which does not exist",
    ),
    "phase": (fit(mixed(), phases=["image"]), r"Objective 'label' is in 0 phases"),
    "unknown phase": (
        fit(mixed(), phases=["image", "label", "sparsty"]),
        r"compile\(phases=...\) names 'sparsty', which is not an objective",
    ),
    "halves": (
        fit(mixed(), combine="modo"),
        r"objective 'sparsity' is a function of the whole step",
    ),
    "two ways": (
        fit(mixed(), loss="mse"),
        r"compile\(objectives=...\) says what the losses are .* leave out `loss`",
    ),
    "names": (
        fit([*mixed(), pt.Objective("image", sparsity)]),
        r"Two objectives are called 'image'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_told_clearly(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        build()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pt.Objective("", "mse"), "needs a name"),
        (lambda: pt.Objective("a", "mse", trains=[]), "`trains` is empty"),
        (lambda: pt.Objective("a", "mse", trains=3), "`trains` holds names"),
        (lambda: pt.Objective("a", "mse", weight="learned"), r"combine=pt.UW\(\)"),
        (lambda: pt.Objective("a", "mse", every=0), "counts steps, from 1"),
        (lambda: pt.Objective("a", lambda: 0), "takes 0 arguments"),
        (lambda: pt.Objective("a", 3), "is a Keras loss or a function of the step"),
        (
            lambda: pt.Objective("a", sparsity, output="b"),
            "`output` and `target` bind a Keras loss",
        ),
        (lambda: pt.Phase([]), "takes the name of an objective"),
        (lambda: pt.Phase("a", steps=0), "at least once"),
        (lambda: pt.Model(networks={}), "takes a dict"),
        (lambda: pt.Model(networks={"a": 3}), "Network 'a' is no Keras model"),
        (lambda: pt.Model(networks=networks(), forward=3), "`forward` is a function"),
    ],
)
def test_arguments_that_cannot_be_meant(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_step_that_fails_touches_nothing() -> None:
    model = joined(objectives(sparsity={"trains": "decoder"}))
    before = arrays(model.trainable_variables)
    with pytest.raises(ValueError, match="no differentiable path"):
        model.fit(X, Y, verbose=0)
    for a, b in zip(arrays(model.trainable_variables), before, strict=True):
        np.testing.assert_array_equal(a, b)


def cells(table: str) -> dict[str, list[str]]:
    lines = [line.split() for line in table.splitlines() if line.strip()]
    return {line[0]: line for line in lines}


def test_the_routing_table(capsys: pytest.CaptureFixture[str]) -> None:
    given = objectives(
        image={"trains": "decoder", "weight": 0.5},
        label={"every": 2},
        sparsity={"trains": "encoder"},
    )
    model = joined(given, rates(), verbose=1)
    declared = capsys.readouterr().out
    assert model.routing_table() in declared
    rows = cells(declared)
    assert rows["image"] == ["image", "0.5", "·", "●", "·"]
    assert rows["label"] == ["label", "1", "every", "2", "?", "?", "?"]
    assert rows["optimizer"] == ["optimizer", "Adam", "0.01", "SGD", "0.1", "Adam", "0.02"]
    model.fit(X, Y, verbose=0)
    seen = {
        line.split()[0]: line.split() for line in model.routing_table().splitlines() if line.strip()
    }
    assert seen["image"] == ["image", "0.5", "○", "●", "·"]
    assert seen["label"] == ["label", "1", "every", "2", "●", "·", "●"]
