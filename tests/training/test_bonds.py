"""Objectives that share a variable or an optimizer stand or fall together, others apart."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.training.routing.failure_groups import FailureGroup, failure_groups
from small import arrays

X = {name: np.ones((8, 3), "float32") * number for number, name in enumerate("abc", 1)}
BAD = {**X, "b": np.full((8, 3), np.nan, "float32")}
NETS = ("one", "two")


def loss(entry: str):
    return lambda step: ops.mean(ops.square(step.outputs[entry]))


def steep(entry: str):
    """Finite, with a gradient that is not: the root of zero, where the input is not finite."""

    def root(step: pt.Step):
        bad = ops.any(ops.isnan(step.inputs[entry]))
        output = ops.mean(ops.square(step.outputs[entry]))
        return output + ops.sqrt(ops.where(bad, 0.0, 1.0) * output)

    return root


def compiled(rows: dict, optimizer=None, **options) -> pt.Model:
    """rows: {objective: (entry of the inputs, network that sees and is trained by it, loss)}."""
    keras.utils.set_random_seed(0)
    networks = {name: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]) for name in NETS}

    def forward(parts, x):
        clean = {name: ops.where(ops.isnan(x[name]), 1.0, x[name]) for name in x}
        seen = clean if all(made is steep for _, _, made in rows.values()) else x
        return {entry: parts[network](seen[entry]) for entry, network, _ in rows.values()}

    model = pt.Model(networks=networks, forward=forward)
    objectives = [
        pt.Objective(name, made(entry), trains=network)
        for name, (entry, network, made) in rows.items()
    ]
    default = {name: keras.optimizers.Adam(0.1) for name in NETS}
    given = default if optimizer is None else optimizer
    model.compile(objectives=objectives, optimizer=given, verbose=0, **options)
    return model


def by_network(model: pt.Model) -> dict[str, list[np.ndarray]]:
    """The weights and slots of each network."""
    optimizer = model.optimizer
    return {
        name: arrays([*model.networks[name].variables, *optimizer[name].variables]) for name in NETS
    }


def run(model: pt.Model, x: dict) -> dict[str, list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return model.fit(x, batch_size=8, verbose=0).history


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


TWO = {"a": ("a", "one", loss), "b": ("b", "two", loss)}
STEEP = {"a": ("a", "one", steep), "b": ("b", "two", steep)}
THREE = {"a": ("a", "one", loss), "b": ("b", "two", loss), "c": ("c", "two", loss)}


@pytest.mark.parametrize("combine", ["sum", "mean", pt.DWA(steps=1), pt.RandomWeights()])
@pytest.mark.parametrize("rows", [TWO, STEEP, THREE], ids=["loss", "gradient", "three"])
def test_the_other_network_goes_on(rows, combine):
    bad, good = (compiled(rows, combine=combine, seed=3) for _ in range(2))
    run(bad, X), run(good, X)
    before = by_network(bad)
    history = run(bad, BAD)
    run(good, X)
    assert history["dropped"] == [1]
    assert "'b'" in bad.plan.dropped.describe()
    assert "'a'" not in bad.plan.dropped.describe()
    after = by_network(bad)
    assert same(after["two"], before["two"]), "neither weights nor slots are touched"
    if combine == "sum":
        assert same(after["one"], by_network(good)["one"]), "as if nothing had happened"
    else:
        assert not same(after["one"], before["one"])
    assert run(bad, X).get("dropped", [0]) == [0]
    assert all(np.isfinite(value).all() for found in by_network(bad).values() for value in found)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="has no XLA")
@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_compiled_by_xla(combine):
    found = compiled(TWO, combine=combine, jit_compile=True)
    run(found, X)
    before = by_network(found)
    assert run(found, BAD)["dropped"] == [1]
    after = by_network(found)
    assert same(after["two"], before["two"])
    assert not same(after["one"], before["one"])
    assert int(found.optimizer["one"].iterations) == 2
    assert int(found.optimizer["two"].iterations) == 1


def test_where_the_losses_of_a_bond_are_finite_all_of_it_is_told():
    rows = {**STEEP, "c": ("c", "two", steep)}
    found = compiled(rows)
    history = run(found, BAD)
    assert history["dropped"] == [2]
    assert found.plan.dropped.describe() == "'b' (1 x), 'c' (1 x)"


@pytest.mark.parametrize(
    "options",
    [{"optimizer": keras.optimizers.SGD}, {"on_nonfinite": "skip"}],
    ids=["one optimizer", "skip"],
)
def test_a_step_that_is_one(options):
    optimizer = options.get("optimizer")
    found = compiled(TWO, **{**options, "optimizer": optimizer(0.1) if optimizer else None})
    before = arrays(found.trainable_variables)
    run(found, BAD)
    assert same(before, arrays(found.trainable_variables))


def test_an_objective_of_another_step_holds_nobody_up():
    """What is not active in a step is not asked whether it is finite."""
    found = compiled(THREE)
    found.compile(
        objectives=[
            pt.Objective("a", loss("a"), trains="one"),
            pt.Objective(
                "b",
                lambda step: loss("b")(step) + float("nan"),  # not finite, whatever the input
                trains="two",
                when=lambda step: step.count < 0,
            ),
            pt.Objective("c", loss("c"), trains="two"),
        ],
        optimizer={name: keras.optimizers.SGD(0.1) for name in NETS},
        verbose=0,
    )
    before = by_network(found)
    assert run(found, X).get("dropped", [0]) == [0]
    after = by_network(found)
    assert not any(same(before[name], after[name]) for name in NETS)


def test_bonds_close_over_variables_and_optimizers():
    allowed = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool)
    assert failure_groups(allowed, ["p", "p", "q", "r", "s"]) == tuple(
        FailureGroup((t,), tuple(np.flatnonzero(allowed[t]))) for t in range(4)
    )
    assert failure_groups(allowed, ["p", "p", "q", "q", "s"]) == (
        FailureGroup((0,), (0, 1)),
        FailureGroup((1, 2), (2, 3)),
        FailureGroup((3,), (4,)),
    )
    chained = allowed | np.array([[0, 0, 1, 0, 0], [0] * 5, [0] * 5, [0, 0, 0, 1, 0]], bool)
    assert [bond.objectives for bond in failure_groups(chained, ["p", "p", "q", "r", "s"])] == [
        (0, 1),
        (2, 3),
    ]
    assert [bond.objectives for bond in failure_groups(chained, ["p", "p", "q", "r", "q"])] == [
        (0, 1, 2, 3)
    ]
