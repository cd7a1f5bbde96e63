"""`pt.compiled_step`: five lines that are the same on every backend, and all that goes through it.

The reference is `fit`, or a loop by hand; what is compiled is compiled once per test at most.
"""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

pytestmark = pytest.mark.engine
BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")


def network(name: str = "net", seed: int = 1, norm: bool = False) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh")(inputs)
    if norm:
        hidden = keras.layers.BatchNormalization()(hidden)
        hidden = keras.layers.Dropout(0.3, seed=7)(hidden)
    return keras.Model(inputs, keras.layers.Dense(2)(hidden), name=name)


def losses_of(model: Any, outputs: bool = False) -> Any:
    def losses(x: Any, y: Any) -> Any:
        prediction = model(x, training=True)
        error = (prediction - y) ** 2
        found = {"a": ops.mean(error[:, 0]), "b": ops.mean(error[:, 1])}
        return (found, {"prediction": prediction}) if outputs else found

    return losses


def values(variables: Any) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def same(one: Any, other: Any, rtol: float = 2e-5) -> None:
    for mine, theirs in zip(values(one), values(other), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=1e-6)


def by_hand(model: Any, optimizer: Any, method: Any, steps: int) -> list[dict[str, float]]:
    combiner, logs = pt.Combiner(method), []
    x, y = ops.convert_to_tensor(X), ops.convert_to_tensor(Y)
    for _ in range(steps):
        grads = pt.gradients(lambda: losses_of(model)(x, y), model)
        optimizer.apply(combiner(grads), model.trainable_variables)
        logs.append({name: float(loss) for name, loss in grads.losses.items()})
    return logs


@pytest.mark.parametrize("method", [pt.Smoothed(pt.Normalize()), "dwa"], ids=str)
def test_as_by_hand_with_all_state(method: Any) -> None:
    """BatchNorm, Dropout's seed, Adam's slots and the method's state move on as in a loop."""
    one, other = network(norm=True), network(norm=True)
    adam = [keras.optimizers.Adam(0.05) for _ in range(2)]
    expected = by_hand(one, adam[0], method, 2)
    step = pt.compiled_step(losses_of(other), adam[1], method, other)
    for wanted in expected:
        logs = step(X, Y)
        for name, loss in wanted.items():
            assert float(logs[name]) == pytest.approx(loss, rel=1e-4)
    same(one.variables, other.variables, 1e-4)
    same(adam[0].variables, adam[1].variables, 1e-4)
    assert int(step.combiner.steps.value) == 2


def test_outputs_and_other_shapes() -> None:
    model = network()
    step = pt.compiled_step(losses_of(model, outputs=True), "sgd", "sum", [model])
    for count in (12, 5, 12):
        logs, outputs = step(X[:count], Y[:count])
        assert outputs["prediction"].shape == (count, 2)
        assert sorted(logs) == ["a", "b"]


def test_it_is_traced_once_for_each_shape() -> None:
    model, calls = network(), []

    def losses(x: Any, y: Any, weight: Any) -> Any:
        calls.append(x.shape)
        return [weight * ops.mean((model(x) - y) ** 2)]

    step = pt.compiled_step(losses, "sgd", "sum", model)
    for weight in (1.0, 2.0, 3.0):
        first = float(step(X, Y, weight=weight)["0"])
    for _ in range(2):
        step(X[:5], Y[:5].astype("float64"), weight=3.0)
    assert first > 0.0
    if BACKEND != "torch":  # once to look, then once for each shape
        assert [shape[0] for shape in calls] == [12, 12, 5]


def test_famo_looks_again_by_itself() -> None:
    model = network(norm=True)
    combiner = pt.Combiner(pt.FAMO(rate=0.5))
    step = pt.compiled_step(losses_of(model), keras.optimizers.SGD(0.1), combiner, model)
    step(X, Y)
    before, after, _ = values(combiner._aggregator.state.read()["last"])
    assert (before > 0).all()
    assert (after > 0).all()
    assert (before != after).all()
    seen = int(ops.convert_to_numpy(model.layers[3].seed_generator.state)[1])
    step(X, Y)
    assert int(ops.convert_to_numpy(model.layers[3].seed_generator.state)[1]) - seen == 1


def test_every_saves_its_passes() -> None:
    """Against `fit`, whose steps in between use the weights that they had."""
    one = pt.Model.wrap(network())
    one.compile(
        keras.optimizers.SGD(0.1),
        run_eagerly=True,
        objectives=[
            pt.Objective("a", lambda s: ops.mean((s.outputs[:, 0] - s.targets[:, 0]) ** 2)),
            pt.Objective("b", lambda s: ops.mean((s.outputs[:, 1] - s.targets[:, 1]) ** 2)),
        ],
        combine=pt.Every(pt.Normalize(), steps=2),
        verbose=0,
    )
    other = network()
    step = pt.compiled_step(
        losses_of(other), keras.optimizers.SGD(0.1), pt.Every(pt.Normalize(), steps=2), other
    )
    for _ in range(5):
        one.train_on_batch(ops.convert_to_tensor(X), ops.convert_to_tensor(Y))
        step(X, Y)
    same(one.trainable_variables, other.trainable_variables)


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere the passes are within a compiled graph")
def test_the_number_of_backward_passes() -> None:
    counts = {}
    for method in ("sum", "upgrad", pt.Every(pt.UPGrad(), steps=3), "famo"):
        model, passes = network(), []
        model.trainable_variables[0].value.register_hook(passes.append)
        step = pt.compiled_step(losses_of(model), "sgd", method, model)
        for _ in range(6):
            step(X, Y)
        counts[str(method).partition("(")[0]] = len(passes)
    assert counts == {"sum": 6, "upgrad": 12, "Every": 2 * 2 + 4, "famo": 6}


def test_an_optimizer_for_each_network() -> None:
    nets = {"one": network("first", 1), "two": network("second", 2)}

    def losses(x: Any, y: Any) -> Any:
        first, second = nets["one"](x), nets["two"](x)
        return {"a": ops.mean((first - y) ** 2), "b": ops.mean((first * second - y) ** 2)}

    start = {name: values(net.trainable_variables) for name, net in nets.items()}
    optimizers = {"one": keras.optimizers.SGD(0.0), "*": keras.optimizers.Adam(0.1)}
    step = pt.compiled_step(losses, optimizers, "upgrad", nets)
    step(X, Y)
    same(start["one"], nets["one"].trainable_variables)
    moved = zip(start["two"], values(nets["two"].trainable_variables), strict=True)
    assert all((one != two).any() for one, two in moved)
    assert [int(step.optimizer[name].iterations.value) for name in ("one", "*")] == [1, 1]


def test_what_is_not_finite_reaches_nothing() -> None:
    model = network()
    adam = keras.optimizers.Adam(0.1)
    step = pt.compiled_step(losses_of(model), adam, pt.Smoothed(pt.UPGrad()), model)
    step(X, Y)
    kept = values([*model.variables, *adam.variables])
    state = values([v for v in step.combiner.variables if "method" in v.path])
    step(X, np.full_like(Y, np.nan))
    for before, after in zip(kept, values([*model.variables, *adam.variables]), strict=True):
        np.testing.assert_array_equal(before, after)
    same(state, [v for v in step.combiner.variables if "method" in v.path])
    step(X, Y)
    assert int(adam.iterations.value) == 2


def test_variables_that_no_network_holds() -> None:
    """A metric that is updated, a weight that is read: found by themselves, and never constants."""
    model, mean = network(), keras.metrics.Mean()
    weight = keras.Variable(1.0, trainable=False)

    def losses(x: Any, y: Any) -> Any:
        loss = weight * ops.mean((model(x) - y) ** 2)
        mean.update_state(loss)
        return {"a": loss}

    step = pt.compiled_step(losses, keras.optimizers.SGD(0.0), "sum", model)
    one = float(step(X, Y)["a"])
    weight.assign(3.0)
    assert float(step(X, Y)["a"]) == pytest.approx(3.0 * one, rel=1e-5)
    assert float(mean.result()) == pytest.approx(2.0 * one, rel=1e-5)


def test_two_variables_with_one_array() -> None:
    one, other = (keras.Variable([2.0], name=name) for name in "ab")
    other.assign(one.value)
    step = pt.compiled_step(
        lambda: {"a": ops.sum(one**2), "b": ops.sum(other)}, "sgd", "sum", [one, other]
    )
    assert [float(v) for v in step().values()] == [4.0, 2.0]


def test_a_network_that_was_never_called_is_built_by_the_first_step() -> None:
    model = keras.Sequential([keras.layers.Dense(2)])
    step = pt.compiled_step(losses_of(model), "sgd", "sum", model)
    first = [float(step(X, Y)["a"]) for _ in range(2)]
    assert first[1] < first[0]


def test_eagerly_is_the_same() -> None:
    one, other = network(norm=True), network(norm=True)
    for model, eager in ((one, True), (other, False)):
        optimizer = keras.optimizers.SGD(0.1)
        step = pt.compiled_step(losses_of(model), optimizer, "mgda", model, run_eagerly=eager)
        for _ in range(2):
            step(X, Y)
    same(one.variables, other.variables, 1e-4)


def test_wrong_use_is_answered() -> None:
    model = network()
    good = losses_of(model)

    def fresh(losses: Any = good, optimizer: Any = "sgd", method: Any = "sum", nets: Any = model):
        return pt.compiled_step(losses, optimizer, method, nets, run_eagerly=True)

    seen: list[int] = []

    def changing(x: Any, y: Any) -> Any:
        seen.append(1)
        return {f"loss {min(len(seen), 2)}": ops.mean(model(x))}

    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: fresh(losses={"a": 1.0}), TypeError, "takes a function of the batch"),
        (lambda: fresh(optimizer=None), ValueError, r"compiled_step\(optimizer=...\) is None"),
        (lambda: fresh(optimizer={}), ValueError, r"compiled_step\(optimizer=\{\}\) has no opt"),
        (lambda: fresh(optimizer={"*": "sgd"})(X, Y), TypeError, "so networks need names"),
        (lambda: fresh(method="ntk"), ValueError, "single samples, which pt.compiled_step does"),
        (lambda: fresh()(X, "y"), TypeError, "takes arrays and numbers. .* Received: 'y'"),
        (lambda: fresh(losses=changing)(X, Y), ValueError, "are 'loss 2' now, and were 'loss 1'"),
        (lambda: fresh(nets=[])(X, Y), ValueError, "pt.compiled_step got no variables"),
        (
            lambda: fresh(losses=lambda x, y: (good(x, y), "text"))(X, Y),
            TypeError,
            "beside the losses are tensors, in any nest. Received: 'text'",
        ),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
    step = fresh()
    step(X, Y)
    model.layers[1].trainable = False
    with pytest.raises(ValueError, match=r"kernel' was trainable when .* is frozen now"):
        step(X, Y)
