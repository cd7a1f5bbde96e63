"""What some methods see beyond one backward pass: the batch again, and its two halves."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.contract import LossesBeforeAfter
from polytape.training.losses.evaluation import Batch
from polytape.training.recording import phase_losses

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = {"a": X[:, :1], "b": -2 * X[:, 1:2] + 1}


def network(dropout: float = 0.0, **compiled: Any) -> pt.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh", name="trunk")(inputs)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Dropout(dropout)(hidden)
    model = pt.Model(inputs, {k: keras.layers.Dense(1, name=k)(hidden) for k in Y})
    model.compile(keras.optimizers.SGD(0.1), loss=dict.fromkeys(Y, "mse"), **compiled)
    return model


def losses(model: pt.Model) -> np.ndarray:
    """Training-mode losses of the batch, with BatchNorm's statistics left as they were."""
    kept = [ops.convert_to_numpy(v.value) for v in model.non_trainable_variables]
    found = model(X, training=True)
    for variable, value in zip(model.non_trainable_variables, kept, strict=True):
        variable.assign(value)
    return np.array([np.mean((ops.convert_to_numpy(found[k]) - Y[k]) ** 2) for k in Y])


def look(model: pt.Model) -> LossesBeforeAfter:
    state = model.plan.aggregator.state.read()["last"]
    return LossesBeforeAfter(*(np.array(ops.convert_to_numpy(value)) for value in state))


def test_the_second_look_sees_the_batch_before_and_after_its_update() -> None:
    model = network(combine="famo")
    before = losses(model)
    model.train_on_batch(X, Y)
    seen = look(model)
    np.testing.assert_allclose(seen.before, before, rtol=1e-5)
    np.testing.assert_allclose(seen.after, losses(model), rtol=1e-5)
    assert seen.active.all()


def test_the_second_look_leaves_statistics_seeds_and_metrics_alone() -> None:
    one, plain = (network(0.5, combine=method) for method in (pt.FAMO(rate=0.0), pt.Sum()))
    logs = []
    for model in (one, plain):
        keras.utils.set_random_seed(2)  # PyTorch's Dropout draws from a global generator
        logs += [model.train_on_batch(X, Y, return_dict=True)]
        logs[-1]["drawn"] = float(ops.mean(model.layers[3](ops.ones((6, 4)), training=True)))
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    for index in (2, 3):  # BatchNorm, Dropout
        pairs = zip(*(m.layers[index].non_trainable_variables for m in (one, plain)), strict=True)
        for pair in pairs:
            np.testing.assert_allclose(*map(ops.convert_to_numpy, pair), rtol=1e-6)


def test_famo_learns_from_what_its_update_did() -> None:
    model = network(combine=pt.FAMO(rate=0.1, decay=0.0))
    method, state = pt.FAMO(rate=0.1, decay=0.0), None
    for _ in range(3):
        seen = look(model)
        model.train_on_batch(X, Y)
        _, state = pt.weigh(method, losses=[1.0, 1.0], names=tuple(Y), last=seen, state=state)
    held = model.plan.aggregator.state.read()["scalarization"]
    np.testing.assert_allclose(
        ops.convert_to_numpy(held.value), ops.convert_to_numpy(state.value), rtol=1e-4, atol=1e-6
    )
    assert np.abs(ops.convert_to_numpy(held.value)).min() > 0.05


def test_a_step_that_is_not_accepted_is_not_looked_at() -> None:
    model = network(combine="famo")
    model.train_on_batch(X, Y)
    seen = look(model)
    with pytest.warns(RuntimeWarning, match="not finite"):
        model.fit(X * np.nan, Y, verbose=0)
    for ours, theirs in zip(look(model), seen, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loop_of_ones_own_may_look_again() -> None:
    w = keras.Variable([1.0, 2.0])
    combiner = pt.Combiner(pt.FAMO(rate=0.1))
    with pytest.raises(RuntimeError, match=r"look_again\(\) follows an update"):
        combiner.look_again({"a": 1.0, "b": 1.0})

    def objectives() -> dict[str, Any]:
        return {"a": w[0] ** 2, "b": (w[1] - 1) ** 2 + w[0] ** 2}

    for _ in range(2):
        (update,) = combiner(pt.gradients(objectives, [w]))
        w.assign(w - 0.1 * update)
        combiner.look_again(objectives())
    held = combiner._aggregator.state.read()["scalarization"].value
    assert np.abs(ops.convert_to_numpy(held)).min() > 0.05


def loss_of(half: slice) -> dict[str, Any]:
    def objectives(w: Any) -> dict[str, Any]:
        found = ops.matmul(ops.convert_to_tensor(X[half]), w)
        return {k: ops.mean((found - ops.convert_to_tensor(Y[k][half])) ** 2) for k in Y}

    return objectives


def test_halves_are_those_of_the_batch() -> None:
    """The model's cross-Gramian is that of a loop which differentiates each half on its own."""
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(1, use_bias=False)
    shared = layer(inputs)
    model = pt.Model(inputs, {k: keras.layers.Identity(name=k)(shared) for k in Y})
    seen = []
    method = pt.MoDo(gamma=0.05, rho=0.0)
    model.compile(keras.optimizers.SGD(0.1), dict.fromkeys(Y, "mse"), combine=method)
    w = keras.Variable(ops.convert_to_numpy(layer.kernel))
    combiner = pt.Combiner(method)
    first, second = loss_of(slice(0, 3)), loss_of(slice(3, 6))
    for _ in range(3):
        pairs = pt.gradients(lambda: {k: (first(w)[k], second(w)[k]) for k in Y}, [w])
        one, two = (
            [ops.convert_to_numpy(g).ravel() for (g,) in half]
            for half in pairs.parts["half_batches"]
        )
        cross = ops.convert_to_numpy(
            pairs.products_of(*pairs.parts["half_batches"], combiner_blocks(combiner, pairs))
        )
        np.testing.assert_allclose(cross, np.array(one) @ np.array(two).T, rtol=1e-4)
        seen.append(cross)
        w.assign(w - 0.1 * combiner(pairs)[0])
        model.train_on_batch(X, Y)
        np.testing.assert_allclose(
            ops.convert_to_numpy(layer.kernel), ops.convert_to_numpy(w), rtol=1e-4, atol=1e-6
        )
    assert np.abs(seen[0] - seen[0].T).max() > 1e-3


def combiner_blocks(combiner: pt.Combiner, grads: pt.Gradients) -> Any:
    from polytape.differentiation.connectivity import Blocks

    return Blocks.by(combiner.method.scope, grads.connectivity.paths)


@pytest.mark.parametrize("method", ["modo", "sdmgrad"])
def test_methods_of_two_halves_train(method: str) -> None:
    model = network(combine=pt.Chain(pt.Normalize(), pt.Every(getattr(pt, METHODS[method])(), 2)))
    start = losses(model)
    for _ in range(20):
        model.train_on_batch(X, Y)
    assert (losses(model) < start).all()


METHODS = {"modo": "MoDo", "sdmgrad": "SDMGrad"}


def test_halves_respect_sample_weights_and_odd_batches() -> None:
    model = network(combine="modo")
    weights = {k: np.array([1, 0, 2, 1, 1], "float32") for k in Y}
    batch = Batch(X[:5], {k: v[:5] for k, v in Y.items()}, weights)
    found = model.train_on_batch(*batch[:2], sample_weight=weights, return_dict=True)
    assert np.isfinite(found["loss"])
    batch = keras.tree.map_structure(ops.convert_to_tensor, batch)
    losses = phase_losses(model.compilation, 0, Batch(*batch), model(batch[0]))
    values = losses.losses, *losses.parts["half_batches"]
    whole, one, two = (np.array([float(v) for v in part]) for part in values)
    np.testing.assert_allclose(whole, 0.4 * one + 0.6 * two, rtol=1e-5)


def test_methods_of_two_halves_say_what_they_miss() -> None:
    w = keras.Variable([1.0, 2.0])
    grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": w[0] * w[1]}, [w])
    with pytest.raises(ValueError, match=r"let the objective function return a pair for each"):
        pt.Combiner("modo")(grads)
    with pytest.raises(ValueError, match=r"MoDo compares the gradients of two half batches: give"):
        pt.weigh("modo", [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"or every objective has a pair of losses"):
        pt.gradients(lambda: {"a": w[0] ** 2, "b": (w[0], w[1])}, [w])
