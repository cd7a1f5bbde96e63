"""Broken programs, each with the cause that an explanation must name.

`PROGRAMS` has them by name. A program gives what `pt.explain` takes: a function of the losses and
its variables, or a model and a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import polytape as pt

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")
ONE_HOT = np.eye(2, dtype="float32")[[0, 1, 1, 0, 1, 0, 0, 1]]


@dataclass(frozen=True)
class Broken:
    """A program and what is wrong with it.

    make       what `pt.explain` takes
    objective, network, kind, operation  of the finding that must be there
    said       words of its text or remedy
    line       whether the line of the program is known: it is, where it calls the operation itself
    layer      the end of the path of the layer
    """

    make: Callable[[], tuple[Any, ...]]
    objective: str
    network: str
    kind: str
    operation: str = ""
    said: str = ""
    line: bool = False
    layer: str = ""


PROGRAMS: dict[str, Broken] = {}


def broken(
    objective: str,
    network: str,
    kind: str,
    operation: str = "",
    said: str = "",
    line: bool = False,
    layer: str = "",
    on: tuple[str, ...] = ("tensorflow", "jax", "torch"),
) -> Callable[[Callable[[], tuple[Any, ...]]], Callable[[], tuple[Any, ...]]]:
    def note(make: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
        if BACKEND in on:
            name = make.__name__.replace("_", " ")
            PROGRAMS[name] = Broken(make, objective, network, kind, operation, said, line, layer)
        return make

    return note


def net(name: str, units: int = 2, inputs: int = 3, **settings: Any) -> keras.Model:
    """One dense layer, named."""
    return keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(units, name="dense", **settings)], name=name
    )


def mse(y: Any, p: Any) -> Any:
    return ops.mean(ops.square(ops.subtract(y, p)))


Losses = Callable[[Any], dict[str, Any]]


def of(losses: Losses, *networks: keras.Model) -> tuple[Any, ...]:
    """A function of one network's output, and its variables by network."""
    first = networks[0]
    named = {each.name: each for each in networks}
    return (lambda: losses(first(X))), named


def compiled(model: keras.Model, **settings: Any) -> keras.Model:
    model.compile("adam", verbose=0, **settings)
    return model


# ---------------------------------------------------------------------- outside the record


@broken("loss", "net", "outside the record", said="constants only")
def prediction_made_before() -> tuple[Any, ...]:
    model = net("net")
    prediction = ops.stop_gradient(model(X))
    return (lambda: {"loss": mse(Y, prediction)}), {"net": model}


@broken("loss", "net", "outside the record")
def prediction_of_predict() -> tuple[Any, ...]:
    model = net("net")
    prediction = model.predict(X, verbose=0)
    return (lambda: {"loss": mse(Y, ops.convert_to_tensor(prediction))}), {"net": model}


@broken("loss", "net", "outside the record")
def targets_compared_with_targets() -> tuple[Any, ...]:
    model = net("net")
    return (lambda: {"loss": mse(Y, ops.convert_to_tensor(Y) + 1)}), {"net": model}


@broken("stale", "", "outside the record")
def an_objective_of_old_outputs() -> tuple[Any, ...]:
    model = pt.Model(networks={"net": net("net")})
    old = ops.stop_gradient(model.networks["net"](X))
    compiled(
        model,
        objectives=[
            pt.Objective("fresh", lambda step: mse(step.targets, step.outputs["net"])),
            pt.Objective("stale", lambda step: mse(step.targets, old)),
        ],
        combine="upgrad",
    )
    return model, X, Y


# ---------------------------------------------------------------------- not connected


@broken("", "right", "not connected", said="never called")
def sub_model_never_called() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, p)}, net("left"), net("right"))


@broken("", "right", "not connected", said="not used")
def output_never_used() -> tuple[Any, ...]:
    left, right = net("left"), net("right")

    def losses() -> dict[str, Any]:
        right(X)
        return {"loss": mse(Y, left(X))}

    return losses, {"left": left, "right": right}


class Spare(layers.Layer):
    """Has a weight that it does not use."""

    def build(self, shape: Any) -> None:
        self.used = self.add_weight(shape=(shape[-1], 2), name="used")
        self.spare = self.add_weight(shape=(2,), name="spare")

    def call(self, x: Any) -> Any:
        return ops.matmul(x, self.used)


@broken("", "spare", "not connected", said="never called")
def weight_built_and_never_used() -> tuple[Any, ...]:
    model = keras.Sequential([keras.Input((3,)), Spare(name="spare")])
    return (lambda: {"loss": mse(Y, model(X))}), {"spare": model}


@broken("", "b", "not connected")
def head_without_a_loss() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    outputs = {name: layers.Dense(2, name=name)(inputs) for name in ("a", "b")}
    return compiled(pt.Model(inputs, outputs), loss={"a": "mse"}), X, {"a": Y}


@broken("b", "left", "not connected", said="not used")
def route_to_a_network_that_the_loss_does_not_read() -> tuple[Any, ...]:
    model = pt.Model(networks={"left": net("left"), "right": net("right")})
    objectives = [
        pt.Objective("a", lambda s: mse(Y, s.outputs["left"]), trains="left"),
        pt.Objective("b", lambda s: mse(Y, s.outputs["right"]), trains=["left", "right"]),
    ]
    return compiled(model, objectives=objectives), X, Y


@broken("", "left", "not connected", said="never called")
def network_that_forward_forgets() -> tuple[Any, ...]:
    model = pt.Model(
        networks={"left": net("left"), "right": net("right")},
        forward=lambda networks, x: networks["right"](x),
    )
    return compiled(model, objectives=[pt.Objective("loss", lambda s: mse(Y, s.outputs))]), X, Y


# ---------------------------------------------------------------------- untracked


@broken("", "", "untracked", said="hidden")
def layer_in_a_closure() -> tuple[Any, ...]:
    hidden = layers.Dense(3, name="hidden")
    hidden.build((None, 3))
    model = pt.Model(
        networks={"net": net("net")}, forward=lambda networks, x: networks["net"](hidden(x))
    )
    return compiled(model, objectives=[pt.Objective("loss", lambda s: mse(Y, s.outputs))]), X, Y


@broken("", "", "untracked", said="hidden")
def layer_in_a_lambda() -> tuple[Any, ...]:
    hidden = layers.Dense(3, name="hidden")
    hidden.build((None, 3))
    inputs = keras.Input((3,))
    middle = layers.Lambda(lambda x: hidden(x), output_shape=(3,))(inputs)
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(middle)})
    return compiled(model, loss={"out": "mse"}), X, {"out": Y}


@broken("", "", "untracked", said="factor")
def variable_in_a_lambda() -> tuple[Any, ...]:
    factor = keras.Variable(2.0, name="factor")
    inputs = keras.Input((3,))
    middle = layers.Lambda(lambda x: x * factor, output_shape=(3,))(inputs)
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(middle)})
    return compiled(model, loss={"out": "mse"}), X, {"out": Y}


# ---------------------------------------------------------------------- cut


def cut(operation: str, **more: Any) -> Any:
    return broken("loss", "net", "cut", operation, line=True, **more)


@cut("stop_gradient")
def stop_gradient() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.stop_gradient(p))}, net("net"))


@cut("argmax", said="softmax")
def argmax() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.cast(ops.argmax(p, 1), "float32"))}, net("net"))


@cut("argmin")
def argmin() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.cast(ops.argmin(p, 1), "float32"))}, net("net"))


@broken("loss", "net", "cut", line=True)
def argsort() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.cast(ops.argsort(p, 1), "float32"))}, net("net"))


@broken("loss", "net", "cut", line=True)
def top_k_indices() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.cast(ops.top_k(p, 1)[1], "float32"))}, net("net"))


@cut("argmax")
def one_hot_of_the_argmax() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.one_hot(ops.argmax(p, 1), 2))}, net("net"))


@cut("round")
def round_() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.round(p))}, net("net"))


@cut("floor")
def floor() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.floor(p))}, net("net"))


@cut("ceil")
def ceil() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.ceil(p))}, net("net"))


@cut("sign")
def sign() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.sign(p))}, net("net"))


@cut("a comparison", said="probability")
def greater() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.cast(p > 0.5, "float32"))}, net("net"))


@cut("argmax")
def accuracy_as_a_loss() -> tuple[Any, ...]:
    target = ops.convert_to_tensor(np.arange(8) % 2, "int32")

    def losses(p: Any) -> dict[str, Any]:
        right = ops.equal(ops.cast(ops.argmax(p, 1), "int32"), target)
        return {"loss": 1 - ops.mean(ops.cast(right, "float32"))}

    return of(losses, net("net"))


@cut("a comparison")
def overlap_of_masks() -> tuple[Any, ...]:
    truth = ops.convert_to_tensor(Y > 0)

    def losses(p: Any) -> dict[str, Any]:
        both = ops.logical_and(ops.greater(p, 0), truth)
        return {"loss": -ops.mean(ops.cast(both, "float32"))}

    return of(losses, net("net"))


@cut("cast", said="int32")
def cast_to_integers() -> tuple[Any, ...]:
    return of(
        lambda p: {"loss": ops.mean(ops.cast(ops.cast(p * 10, "int32"), "float32"))}, net("net")
    )


@cut("cast", said="bool")
def cast_to_truth() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.cast(ops.cast(p, "bool"), "float32"))}, net("net"))


@broken("", "", "cut", "a host function", on=("jax",), line=True)
def numpy_while_jax_traces() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, np.asarray(p) * 2)}, net("net"))


@broken("loss", "net", "cut", "a host function", on=("tensorflow", "torch"), line=True)
def numpy_on_the_way() -> tuple[Any, ...]:
    return of(
        lambda p: {"loss": mse(Y, ops.convert_to_tensor(ops.convert_to_numpy(p)))}, net("net")
    )


@broken("loss", "net", "cut", "a host function", on=("tensorflow", "torch"), line=True)
def python_number_on_the_way() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        return {"loss": ops.convert_to_tensor(float(ops.mean(p))) * 2.0}

    return of(losses, net("net"))


@broken("loss", "net", "cut", line=True)
def categorical_sampling() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        drawn = keras.random.categorical(p, 1, seed=1)
        return {"loss": ops.mean(ops.cast(drawn, "float32"))}

    return of(losses, net("net"))


@cut("floor")
def floor_division() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(p // 0.1)}, net("net"))


@cut("bucketize", said="softly")
def number_of_the_bin() -> tuple[Any, ...]:
    edges = np.array([-1.0, 0.0, 1.0], "float32")
    return of(lambda p: {"loss": ops.mean(ops.cast(ops.digitize(p, edges), "float32"))}, net("net"))


@cut("sampling")
def binomial_sampling() -> tuple[Any, ...]:
    return of(
        lambda p: {"loss": mse(Y, keras.random.binomial((8, 2), 3.0, ops.sigmoid(p), seed=1))},
        net("net"),
    )


@broken("out", "out", "cut", "argmax")
def a_metric_as_a_loss() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, {"out": layers.Dense(2, activation="softmax", name="out")(inputs)})
    return compiled(model, loss={"out": keras.metrics.categorical_accuracy}), X, {"out": ONE_HOT}


@broken("rec", "encoder", "cut", "argmin", line=True)
def code_book_without_a_straight_path() -> tuple[Any, ...]:
    encoder, decoder = net("encoder"), net("decoder", 3, 2)
    book = layers.Embedding(5, 2, name="book")
    book.build()

    def losses() -> dict[str, Any]:
        away = ops.expand_dims(encoder(X), 1) - ops.expand_dims(book.embeddings, 0)
        nearest = ops.argmin(ops.sum(away**2, -1), 1)
        return {"rec": mse(X, decoder(book(nearest)))}

    return losses, {"encoder": encoder, "book": book, "decoder": decoder}


@broken("out", "trunk", "cut", "cast", said="int32", layer="table")
def numbers_as_words() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    words = layers.Embedding(9, 2, name="table")(layers.Dense(3, name="trunk")(inputs))
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(layers.Flatten()(words))})
    return compiled(model, loss={"out": "mse"}), abs(X), {"out": Y}


class Quantiser(layers.Layer):
    def call(self, x: Any) -> Any:
        return ops.round(x)


@broken("out", "trunk", "cut", "round", line=True, layer="quantiser")
def quantiser_without_a_gradient() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    code = Quantiser(name="quantiser")(layers.Dense(4, name="trunk")(inputs))
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(code)})
    return compiled(model, loss={"out": "mse"}), X, {"out": Y}


@broken("adversarial", "encoder", "cut", "stop_gradient", line=True)
def route_through_stop_gradient() -> tuple[Any, ...]:
    networks = {"encoder": net("encoder"), "critic": net("critic", 1, 2)}
    model = pt.Model(
        networks=networks,
        forward=lambda nets, x: nets["critic"](ops.stop_gradient(nets["encoder"](x))),
    )
    objectives = [
        pt.Objective("adversarial", lambda s: ops.mean(s.outputs), trains="encoder"),
        pt.Objective("critic", lambda s: mse(1.0, s.outputs), trains="critic"),
    ]
    return compiled(model, objectives=objectives), X, Y


@broken("b", "trunk", "cut", "argmax", line=True)
def one_head_of_two_is_cut() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="trunk")(inputs)
    index = layers.Lambda(
        lambda h: ops.cast(ops.argmax(h, axis=1, keepdims=True), "float32"), output_shape=(1,)
    )(hidden)
    outputs = {"a": layers.Dense(2, name="a")(hidden), "b": layers.Dense(2, name="b")(index)}
    model = pt.Model(inputs, outputs)
    return compiled(model, loss={"a": "mse", "b": "mse"}, combine="upgrad"), X, {"a": Y, "b": Y}


# ---------------------------------------------------------------------- zero


@broken("loss", "net", "saturated", "relu", said="dead")
def dead_relu() -> tuple[Any, ...]:
    low = keras.initializers.Constant(-100.0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="relu", bias_initializer=low, name="hidden"),
            layers.Dense(2, name="out"),
        ],
        name="net",
    )
    return (lambda: {"loss": mse(Y, model(X))}), {"net": model}


@broken("out", "hidden", "saturated", "relu", layer="hidden", said="dead")
def dead_relu_in_fit() -> tuple[Any, ...]:
    low = keras.initializers.Constant(-100.0)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="relu", bias_initializer=low, name="hidden")(inputs)
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(hidden)})
    return compiled(model, loss={"out": "mse"}), X, {"out": Y}


def steep(activation: str) -> tuple[Any, ...]:
    large = keras.initializers.Constant(1e4)
    model = net("net", kernel_initializer=large, activation=activation)
    return of(lambda p: {"loss": mse(Y, p)}, model)


@broken("loss", "net", "saturated", "sigmoid", said="exactly 0 or 1")
def saturated_sigmoid() -> tuple[Any, ...]:
    return steep("sigmoid")


@broken("loss", "net", "saturated", "tanh", said="exactly -1 or 1")
def saturated_tanh() -> tuple[Any, ...]:
    return steep("tanh")


@broken("loss", "net", "saturated", "softmax", said="exactly 0 or 1")
def saturated_softmax() -> tuple[Any, ...]:
    model = net("net", bias_initializer=lambda shape, dtype=None: ops.array([0.0, 1e4]))
    return of(lambda p: {"loss": mse(ONE_HOT, ops.softmax(p))}, model)


@broken("loss", "net", "saturated", "clip", line=True)
def clipped_outside_its_range() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.clip(p + 50, -1.0, 1.0))}, net("net"))


@broken("loss", "net", "saturated", "maximum", line=True)
def maximum_with_a_constant() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.maximum(p, 100.0))}, net("net"))


@broken("loss", "net", "saturated", "minimum", line=True)
def minimum_with_a_constant() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.minimum(p, -100.0))}, net("net"))


@broken("loss", "net", "masked", "multiply", line=True)
def mask_of_zeros() -> tuple[Any, ...]:
    mask = np.zeros((8, 1), "float32")
    return of(lambda p: {"loss": ops.mean(ops.multiply(ops.subtract(p, Y) ** 2, mask))}, net("net"))


@broken("a", "", "no label", said="sample weight")
def sample_weights_of_zero() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    outputs = {name: layers.Dense(2, name=name)(inputs) for name in ("a", "b")}
    model = compiled(pt.Model(inputs, outputs), loss={"a": "mse", "b": "mse"}, combine="upgrad")
    weights = {"a": np.zeros(8, "float32"), "b": np.ones(8, "float32")}
    return model, X, {"a": Y, "b": Y}, weights


@broken("a", "", "no label")
def no_label_at_all() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    outputs = {name: layers.Dense(2, name=name)(inputs) for name in ("a", "b")}
    model = compiled(pt.Model(inputs, outputs), loss={"a": "mse", "b": "mse"}, combine="upgrad")
    return model, X, {"a": np.full_like(Y, np.nan), "b": Y}


@broken("out", "trunk", "saturated", "matmul", said="zeros", layer="out")
def head_of_zeros() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="trunk")(inputs)
    model = pt.Model(
        inputs, {"out": layers.Dense(2, kernel_initializer="zeros", name="out")(hidden)}
    )
    return compiled(model, loss={"out": "mse"}), X, {"out": Y}


@broken("loss", "net", "saturated", "matmul", said="zeros")
def inputs_of_zeros() -> tuple[Any, ...]:
    model = net("net", use_bias=False)
    return (lambda: {"loss": mse(Y, model(np.zeros_like(X)))}), {"net": model}


@broken("loss", "net", "at a minimum", "square")
def compared_with_itself() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        return {"loss": ops.mean(ops.square(p - ops.stop_gradient(p)))}

    return of(losses, net("net"))


@broken("loss", "net", "cancelled")
def a_loss_minus_itself() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(p) - ops.mean(p)}, net("net"))


@broken("loss", "net", "saturated", "relu", line=True)
def hinge_without_a_violation() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.relu(1.0 - (p + 100)))}, net("net"))


@broken("loss", "net", "underflow", said="float16")
def too_small_for_float16() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        half = ops.cast(p, "float16")
        return {"loss": ops.cast(ops.mean(half), "float32") * 1e-9}

    return of(losses, net("net"))


@broken("out", "", "wrong numbers", "softmax", said="always 1", on=("tensorflow",))
@broken(
    "out",
    "hidden",
    "saturated",
    "softmax",
    layer="out",
    said="one number only",
    on=("jax", "torch"),
)
def softmax_over_one_unit() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="hidden")(inputs)
    model = pt.Model(inputs, {"out": layers.Dense(1, activation="softmax", name="out")(hidden)})
    return compiled(model, loss={"out": "binary_crossentropy"}), X, {"out": ONE_HOT[:, :1]}


@broken("loss", "net", "saturated", "softmax", said="axis", line=True)
def softmax_on_an_axis_of_one() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y[:, :, None], ops.softmax(p[:, :, None]))}, net("net"))


@broken("loss", "net", "saturated", "log_softmax", said="one number only", line=True)
def log_softmax_of_one_class() -> tuple[Any, ...]:
    return of(lambda p: {"loss": -ops.mean(ops.log_softmax(p))}, net("net", 1))


def between(layer: keras.Layer, units: int, samples: int) -> tuple[Any, ...]:
    """A layer between trunk and head."""
    inputs = keras.Input((3,))
    hidden = layer(layers.Dense(units, name="trunk")(inputs))
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(hidden)})
    return compiled(model, loss={"out": "mse"}), X[:samples], {"out": Y[:samples]}


@broken("out", "trunk", "saturated", "a normalisation", layer="norm", said="larger batch")
def batch_norm_of_one_sample() -> tuple[Any, ...]:
    return between(layers.BatchNormalization(name="norm"), 4, 1)


@broken("out", "trunk", "saturated", "a normalisation", layer="norm", said="mean of one")
def layer_norm_of_one_unit() -> tuple[Any, ...]:
    return between(layers.LayerNormalization(name="norm"), 1, 8)


@broken("out", "out", "saturated", "matmul", said="'off'")
def nothing_left_by_dropout() -> tuple[Any, ...]:
    return between(layers.Dropout(1 - 1e-9, seed=1, name="off"), 4, 8)


@broken("loss", "net", "masked", "multiply", line=True)
def weight_of_zero_in_python() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, p) * 0.0}, net("net"))


@broken("loss", "net", "saturated", "concatenate", said="maximum", line=True)
def a_constant_is_larger() -> tuple[Any, ...]:
    large = np.full((8, 1), 1e3, "float32")
    return of(lambda p: {"loss": ops.mean(ops.max(ops.concatenate([p, large], 1), 1))}, net("net"))


@broken("loss", "net", "saturated", "product", line=True)
def product_of_zeros() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.prod(p * 0)}, net("net"))


@broken("loss", "net", "saturated", "elu", line=True)
def elu_far_below_zero() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.elu(p - 1000))}, net("net"))


@broken("loss", "net", "saturated", "softplus", line=True)
def softplus_far_below_zero() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.softplus(p - 1000))}, net("net"))


@broken("loss", "net", "saturated", "erf", line=True)
def error_function_far_out() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.erf(p + 100))}, net("net"))


@broken("loss", "net", "saturated", "clip", line=True)
def hard_tanh_far_out() -> tuple[Any, ...]:
    return of(lambda p: {"loss": mse(Y, ops.hard_tanh(p + 100))}, net("net"))


# ---------------------------------------------------------------------- not finite


def bad(operation: str, **more: Any) -> Any:
    return broken("loss", "net", "not finite", operation, line=True, **more)


@bad("sqrt")
def root_of_zero() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.sqrt(p * 0.0))}, net("net"))


@bad("sqrt")
def distance_to_itself() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.sqrt(ops.sum((p - p) ** 2, axis=1)))}, net("net"))


@bad("log")
def logarithm_of_zero() -> tuple[Any, ...]:
    return of(lambda p: {"loss": -ops.mean(ops.log(p * 0.0))}, net("net"))


@bad("divide")
def zero_by_zero() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        gone = p * 0.0
        return {"loss": ops.mean(gone / gone)}

    return of(losses, net("net"))


@bad("sqrt", said="where")
def where_hides_the_bad_branch() -> tuple[Any, ...]:
    return of(
        lambda p: {"loss": ops.mean(ops.where(p > 0, ops.sqrt(p * 0.0), p))},
        net("net", bias_initializer=keras.initializers.Constant(-1.0)),
    )


@bad("arccos")
def arccos_at_one() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        return {"loss": ops.mean(ops.arccos(ops.minimum(p + 100.0, 1.0) + 0.0 * p))}

    return of(losses, net("net"))


@bad("exp")
def exponential_overflows() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.exp(p * p + 200.0))}, net("net"))


@bad("multiply", said="overflows")
def recurrence_that_explodes() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        for _ in range(60):
            p = p * 10.0
        return {"loss": ops.mean(p)}

    return of(losses, net("net"))


@bad("softmax", said="mask")
def attention_with_all_masked() -> tuple[Any, ...]:
    mask = np.where(np.arange(8)[:, None] < 3, -np.inf, 0.0).astype("float32")
    return of(lambda p: {"loss": mse(Y, ops.softmax(ops.add(p, mask)))}, net("net"))


@bad("sqrt", said="negative")
def root_of_a_negative_number() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.sqrt(p - 100))}, net("net"))


@bad("log")
def logarithm_of_a_softmax_beside_a_mask() -> tuple[Any, ...]:
    mask = np.where(np.arange(2) > 0, -np.inf, 0.0).astype("float32")

    def losses(p: Any) -> dict[str, Any]:
        return {"loss": -ops.mean(ops.log(ops.softmax(ops.add(p, mask))))}

    return of(losses, net("net"))


@broken("loss", "", "not finite", "divide", line=True)
def divided_by_the_deviation_of_equals() -> tuple[Any, ...]:
    def losses(p: Any) -> dict[str, Any]:
        dead = ops.relu(p - 100)
        return {"loss": mse(Y, (dead - ops.mean(dead, 0)) / ops.std(dead, 0))}

    return of(losses, net("net"))


@bad("power")
def fractional_power_of_zero() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(ops.power(p * 0.0, 0.5))}, net("net"))


@broken("loss", "net", "not finite", said="given")
def nan_in_the_data() -> tuple[Any, ...]:
    x = X.copy()
    x[3, 1] = np.nan
    model = net("net")
    return (lambda: {"loss": mse(Y, model(x))}), {"net": model}


@broken("loss", "net", "not finite", said="variable")
def nan_in_a_variable() -> tuple[Any, ...]:
    model = net("net")
    model.layers[0].kernel.assign(np.full((3, 2), np.nan, "float32"))
    return (lambda: {"loss": mse(Y, model(X))}), {"net": model}


@broken("b", "trunk", "not finite", "log", line=True)
def one_head_of_two_is_infinite() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="trunk")(inputs)
    outputs = {name: layers.Dense(2, name=name)(hidden) for name in ("a", "b")}
    model = pt.Model(inputs, outputs)
    losses = {"a": "mse", "b": lambda y, p: ops.mean(ops.log(p * 0.0) * y, axis=-1)}
    return compiled(model, loss=losses, combine="upgrad"), X, {"a": Y, "b": Y}


# ---------------------------------------------------------------------- wrong numbers


@broken("out", "", "wrong numbers", said="from_logits=True")
def logits_for_probabilities() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(inputs)})
    return compiled(model, loss={"out": "categorical_crossentropy"}), X * 9, {"out": ONE_HOT}


@broken("out", "", "wrong numbers", said="from_logits=True")
def logits_for_binary_probabilities() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(inputs)})
    return compiled(model, loss={"out": "binary_crossentropy"}), X * 9, {"out": ONE_HOT}


@broken("out", "", "wrong numbers", said="one class only")
def one_unit_for_many_classes() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, {"out": layers.Dense(1, activation="sigmoid", name="out")(inputs)})
    return compiled(model, loss={"out": "categorical_crossentropy"}), X, {"out": ONE_HOT[:, :1]}


@broken("out", "", "wrong numbers", said="probabilities")
def probabilities_for_logits() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, {"out": layers.Dense(2, activation="softmax", name="out")(inputs)})
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return compiled(model, loss={"out": loss}), X, {"out": ONE_HOT}


@broken("out", "", "wrong numbers", said="probabilities")
def binary_probabilities_for_logits() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, {"out": layers.Dense(2, activation="sigmoid", name="out")(inputs)})
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return compiled(model, loss={"out": loss}), X, {"out": ONE_HOT}


# ---------------------------------------------------------------------- frozen


@broken("", "net", "frozen", on=("torch",))
def parameters_that_do_not_train() -> tuple[Any, ...]:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    module[0].requires_grad_(False)
    y = torch.tensor(Y)
    return (lambda: {"loss": ((module(torch.tensor(X)) - y) ** 2).mean()}), {"net": module}


@broken("", "left", "frozen", said="compile")
def frozen_after_compile() -> tuple[Any, ...]:
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="left")(inputs)
    model = pt.Model(inputs, {"out": layers.Dense(2, name="out")(hidden)})
    compiled(model, loss={"out": "mse"})
    model.get_layer("left").trainable = False
    return model, X, {"out": Y}


# ---------------------------------------------------------------------- of one framework


@broken("loss", "net", "cut", "a host function", line=True, on=("tensorflow",))
def numpy_function() -> tuple[Any, ...]:
    import tensorflow as tf

    def losses(p: Any) -> dict[str, Any]:
        return {"loss": ops.mean(tf.numpy_function(lambda v: v * 2, [p], tf.float32))}

    return of(losses, net("net"))


@broken("loss", "net", "cut", "round", line=True, on=("tensorflow",))
def inside_a_tf_function() -> tuple[Any, ...]:
    import tensorflow as tf

    @tf.function
    def coarse(p: Any) -> Any:
        return tf.round(p)

    return of(lambda p: {"loss": ops.mean(coarse(p))}, net("net"))


@broken("", "", "cut", "a host function", line=True, on=("jax",))
def pure_callback() -> tuple[Any, ...]:
    import jax

    def losses(p: Any) -> dict[str, Any]:
        shape = jax.ShapeDtypeStruct(p.shape, p.dtype)
        return {"loss": ops.mean(jax.pure_callback(lambda v: v * 2, shape, p))}

    return of(losses, net("net"))


@broken("loss", "net", "cut", "no_grad", line=True, on=("torch",))
def without_gradients() -> tuple[Any, ...]:
    import torch

    def losses(p: Any) -> dict[str, Any]:
        with torch.no_grad():
            doubled = p * 2
        return {"loss": ops.mean(doubled)}

    return of(losses, net("net"))


@broken("loss", "net", "cut", "stop_gradient", line=True, on=("torch",))
def detached() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(p.detach() * 2)}, net("net"))


@broken("loss", "net", "cut", "stop_gradient", line=True, on=("torch",))
def the_data_of_a_tensor() -> tuple[Any, ...]:
    return of(lambda p: {"loss": ops.mean(p.data * 2)}, net("net"))


@broken("loss", "net", "cut", "a host function", line=True, on=("torch",))
def item_of_a_tensor() -> tuple[Any, ...]:
    import torch

    return of(lambda p: {"loss": torch.tensor(p.mean().item()) * 2}, net("net"))


@broken("loss", "net", "saturated", "a custom function", said="backward", on=("torch",))
def a_function_whose_derivative_is_zero() -> tuple[Any, ...]:
    import torch

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Any) -> Any:
            return x * 2 + 1

        @staticmethod
        def backward(context: Any, upstream: Any) -> Any:
            return upstream * 0

    return of(lambda p: {"loss": Nothing.apply(p).mean()}, net("net"))


@broken("loss", "net", "cut", "a custom function", said="backward", line=True, on=("torch",))
def a_function_without_a_derivative() -> tuple[Any, ...]:
    import torch

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Any) -> Any:
            return x * 2 + 1

        @staticmethod
        def backward(context: Any, upstream: Any) -> Any:
            return None

    return of(lambda p: {"loss": Nothing.apply(p).mean()}, net("net"))


@broken("loss", "net", "cut", "sampling", line=True, on=("torch",))
def sample_instead_of_rsample() -> tuple[Any, ...]:
    import torch

    return of(lambda p: {"loss": torch.distributions.Normal(p, 1.0).sample().mean()}, net("net"))


@broken("loss", "net", "cut", "a copy", line=True, on=("torch",))
def a_new_tensor_of_the_loss() -> tuple[Any, ...]:
    import torch

    return of(lambda p: {"loss": torch.tensor(p.mean()).requires_grad_()}, net("net"))


def torch_net(*modules: Any) -> Any:
    """A module, and the function that gives a loss of it."""
    import torch

    module = torch.nn.Sequential(*modules)
    return (lambda: {"loss": ((module(torch.tensor(X)) - torch.tensor(Y)) ** 2).mean()}), module


@broken("loss", "0", "saturated", "relu", said="dead", on=("torch",))
def dead_relu_in_place() -> tuple[Any, ...]:
    import torch

    losses, module = torch_net(
        torch.nn.Linear(3, 4), torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 2)
    )
    torch.nn.init.constant_(module[0].bias, -100.0)
    return losses, module


@broken("loss", "0", "saturated", "a normalisation", on=("torch",))
def torch_layer_norm_of_one_unit() -> tuple[Any, ...]:
    import torch

    return torch_net(torch.nn.Linear(3, 1), torch.nn.LayerNorm(1), torch.nn.Linear(1, 2))


@broken("loss", "net", "saturated", "cross_entropy", said="one number only", on=("torch",))
def cross_entropy_of_one_class() -> tuple[Any, ...]:
    import torch

    labels = torch.zeros(8, dtype=torch.long)
    return of(
        lambda p: {"loss": torch.nn.functional.cross_entropy(p, labels)},
        net("net", 1),
    )


@broken("loss", "", "not finite", "cross_entropy", said="labels", line=True, on=("torch",))
def every_label_is_ignored() -> tuple[Any, ...]:
    import torch

    labels = torch.full((8,), -100)
    return of(lambda p: {"loss": torch.nn.functional.cross_entropy(p, labels)}, net("net"))


@broken("loss", "net", "cut", "an assignment", line=True, on=("tensorflow",))
def through_a_variable() -> tuple[Any, ...]:
    import tensorflow as tf

    held = tf.Variable(tf.zeros((8, 2)), trainable=False)

    def losses(p: Any) -> dict[str, Any]:
        held.assign(p)
        return {"loss": tf.reduce_mean(held * 2.0)}

    return of(losses, net("net"))


@broken("", "", "cut", "a host function", line=True, on=("tensorflow",))
def numpy_in_a_py_function() -> tuple[Any, ...]:
    import tensorflow as tf

    return of(
        lambda p: {"loss": tf.reduce_mean(tf.py_function(lambda v: v.numpy(), [p], tf.float32))},
        net("net"),
    )


@broken("loss", "net", "saturated", "a custom function", said="backward", on=("tensorflow",))
def a_gradient_of_zeros() -> tuple[Any, ...]:
    import tensorflow as tf

    @tf.custom_gradient
    def nothing(x: Any) -> Any:
        return x * 2, lambda upstream: upstream * 0

    return of(lambda p: {"loss": tf.reduce_mean(nothing(p))}, net("net"))


@broken("loss", "net", "saturated", "SoftmaxCrossEntropyWithLogits", on=("tensorflow",))
def softmax_cross_entropy_of_one_class() -> tuple[Any, ...]:
    import tensorflow as tf

    def losses(p: Any) -> dict[str, Any]:
        entropy = tf.nn.softmax_cross_entropy_with_logits(labels=tf.ones((8, 1)), logits=p)
        return {"loss": tf.reduce_mean(entropy)}

    return of(losses, net("net", 1))


@broken("loss", "", "not finite", "Mean", said="of nothing", line=True, on=("tensorflow",))
def a_mask_leaves_nothing() -> tuple[Any, ...]:
    import tensorflow as tf

    nowhere = np.zeros((8, 2), bool)
    return of(lambda p: {"loss": tf.reduce_mean(tf.boolean_mask(p, nowhere))}, net("net"))


@broken("loss", "net", "saturated", "a custom function", said="backward", on=("jax",))
def a_derivative_of_zeros() -> tuple[Any, ...]:
    import jax

    @jax.custom_vjp
    def nothing(x: Any) -> Any:
        return x * 2

    nothing.defvjp(lambda x: (x * 2, None), lambda _, upstream: (upstream * 0,))
    return of(lambda p: {"loss": ops.mean(nothing(p))}, net("net"))


@broken("loss", "net", "cut", "sampling", line=True, on=("jax",))
def a_coin_of_jax() -> tuple[Any, ...]:
    import jax

    def losses(p: Any) -> dict[str, Any]:
        drawn = jax.random.bernoulli(jax.random.key(0), jax.nn.sigmoid(p))
        return {"loss": ops.mean(ops.cast(drawn, "float32"))}

    return of(losses, net("net"))


@broken("loss", "net", "cut", "round", line=True, on=("jax",))
def in_a_scope_of_the_users_own() -> tuple[Any, ...]:
    import jax

    def losses(p: Any) -> dict[str, Any]:
        with jax.named_scope("mine"):
            return {"loss": ops.mean(ops.round(p))}

    return of(losses, net("net"))
