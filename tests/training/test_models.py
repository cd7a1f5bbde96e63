"""The ways to make a `pt.Model`, the shapes of outputs and losses, and Keras's own arguments."""

import keras
import numpy as np
import pytest
from keras import layers

import polytape as pt
from small import LOSSES, Array, arrays, assert_same, data, model, tensors

X, Y = data(16)
PAIR = np.concatenate([Y["a"], Y["b"]], axis=1)


class Lazy(pt.Model):
    """Subclassed, built when it is first called."""

    def __init__(self, units: int = 6, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.trunk = layers.Dense(units, activation="tanh")
        self.heads = {name: layers.Dense(1, name=name) for name in "ab"}

    def call(self, x: object, training: bool = False) -> dict[str, object]:
        hidden = self.trunk(x)
        return {name: head(hidden) for name, head in self.heads.items()}


def trained(
    found: keras.Model, loss: object, y: object, combine: object = "pcgrad", **options: object
) -> dict:
    """The history of a fit; every trainable variable moved."""
    found.compile(keras.optimizers.SGD(0.05), loss, combine=combine, **options)
    found.train_on_batch(X, y)
    before = arrays(found.trainable_variables)
    told = found.fit(X, y, batch_size=8, epochs=2, verbose=0).history
    after = arrays(found.trainable_variables)
    assert all(not np.array_equal(one, two) for one, two in zip(before, after, strict=True))
    assert all(np.isfinite(values).all() for values in told.values())
    return told


def test_subclassed_and_lazy() -> None:
    keras.utils.set_random_seed(0)  # signs of errors may add up to nothing
    told = trained(Lazy(), {"a": "mse", "b": "mae"}, {n: Y[n] for n in "ab"})
    assert set(told) == {"loss", "a_loss", "b_loss"}


class Mine(pt.Model):
    """A user's class, used functionally below."""

    def extra(self) -> str:
        return "mine"


def test_functional_use_leaves_classes_as_they_are() -> None:
    inputs, outputs = tensors()
    one, two = Mine(inputs, outputs), pt.Model(inputs, outputs)
    assert one.extra() == "mine"
    assert isinstance(one, pt.Model)
    assert isinstance(two, pt.Model)
    assert pt.Model.__mro__[1].__name__ == "Trainer"

    class Later(pt.Model):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

    class Plain(keras.Model):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

    assert (Later(3).width, Plain(width=4).width) == (3, 4)
    assert Lazy(units=2).trunk.units == 2


def functional() -> keras.Model:
    return model(keras.Model)


def subclassed() -> keras.Model:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = functional()

        def call(self, x: object) -> dict[str, object]:
            return self.inner(x)

    return Net()


@pytest.mark.parametrize("build", [functional, subclassed])
def test_wrap_trains_the_wrapped_model(build: object) -> None:
    network = build()
    network(X[:1])
    before = arrays(network.trainable_variables)
    wrapped = pt.Model.wrap(network)
    told = trained(wrapped, LOSSES, Y)
    assert set(told) == {"loss", "a_loss", "b_loss", "c_loss"}
    after = arrays(network.trainable_variables)
    assert not any(np.array_equal(one, two) for one, two in zip(before, after, strict=True))
    assert_same(arrays(wrapped.trainable_variables), after)


def test_wrap_sequential_with_two_losses_on_one_output() -> None:
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(2)])
    told = trained(pt.Model.wrap(network), ["mse", "mae"], PAIR)
    assert "loss" in told


def test_wrap_refuses_what_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"pt.Model.wrap takes a Keras model. Received: <Dense"):
        pt.Model.wrap(layers.Dense(1))


def outputs_as(shape: str) -> keras.Model:
    inputs, found = tensors()
    a, b = found["a"], found["b"]
    nest = {"list": [a, b], "tuple": (a, b), "nested": {"g": {"a": a}, "b": b}, "dict": found}
    return pt.Model(inputs, nest[shape])


NESTED = {"g": {"a": Y["a"]}, "b": Y["b"]}
SHAPES = {
    "list, list": ("list", ["mse", "mae"], [Y["a"], Y["b"]], {"a_loss", "b_loss"}),
    "list, one loss for all": ("list", "mse", [Y["a"], Y["b"]], {"a_loss", "b_loss"}),
    "nested": ("nested", {"g": {"a": "mse"}, "b": "mae"}, NESTED, {"g/a_loss", "b_loss"}),
    "one without loss": ("dict", {"a": "mse", "c": LOSSES["c"]}, {n: Y[n] for n in "ac"}, None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_outputs_and_losses(name: str) -> None:
    shape, loss, y, lines = SHAPES[name]
    found = outputs_as(shape)
    found.compile(keras.optimizers.SGD(0.05), loss, combine="pcgrad")
    told = found.fit(X, y, batch_size=8, epochs=1, verbose=0).history
    assert lines is None or lines <= set(told)
    assert np.isfinite(told["loss"]).all()


def test_a_list_of_losses_for_one_output_counts_every_loss() -> None:
    loss = {"a": ["mse", "mae"], "b": ["mse"]}
    y = {n: Y[n] for n in "ab"}
    inputs, outputs = tensors()
    found = pt.Model(inputs, {n: outputs[n] for n in "ab"})
    found.compile("sgd", loss, combine="pcgrad")
    found.train_on_batch(X, y)
    assert len(found.plan.names) == 3
    assert "a/mean_absolute_error" in found.plan.names


def both(**options: object) -> list[tuple[dict, list[Array]]]:
    """Keras and combine="sum", two epochs with weights of every kind."""
    found = []
    for cls in (keras.Model, pt.Model):
        keras.utils.set_random_seed(0)
        net = model(cls)
        net.compile(
            keras.optimizers.SGD(0.05),
            LOSSES,
            {"a": 2.0, "b": 0.5, "c": 1.0},
            metrics={"a": ["mae"]},
            weighted_metrics={"c": ["accuracy"]},
        )
        told = net.fit(X, Y, batch_size=8, epochs=2, verbose=0, **options)
        scores = net.evaluate(X, Y, verbose=0, return_dict=True)
        answer = net.predict(X, verbose=0)["a"]
        found.append(({**told.history, **scores}, [*arrays(net.trainable_variables), answer]))
    return found


def test_weights_metrics_validation_evaluate_and_predict_are_those_of_keras() -> None:
    weights = {name: np.linspace(0.1, 2.0, 16) for name in "abc"}
    (plain, values), (mine, others) = both(sample_weight=weights, validation_data=(X, Y))
    assert plain.keys() == mine.keys()
    assert {"a_mae", "c_accuracy", "val_b_loss"} <= mine.keys()
    for key, value in plain.items():
        np.testing.assert_allclose(mine[key], value, rtol=1e-5, err_msg=key)
    for one, two in zip(values, others, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_class_weight() -> None:
    found = []
    for cls, options in ((keras.Model, {}), (pt.Model, {"combine": "sum"})):
        inputs, outputs = tensors()
        net = cls(inputs, outputs["c"])
        net.set_weights([0.1 * np.ones(w.shape) for w in net.get_weights()])
        net.compile(keras.optimizers.SGD(0.05), LOSSES["c"], **options)
        told = net.fit(X, Y["c"], class_weight={0: 3.0, 1: 0.5}, verbose=0, shuffle=False)
        found.append(told.history["loss"])
    np.testing.assert_allclose(*found, rtol=1e-5)
