"""What is no label counts nowhere: through loss= as through objectives=, in training as in metrics.

The right values are worked out by hand in float64, for a network whose gradients are short.
"""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import polytape as pt

pytestmark = pytest.mark.engine
BACKEND = keras.backend.backend()
Array = np.ndarray
N, T, IN, HID, K = 4, 3, 4, 3, 2  # samples, time steps, inputs, features, numbers of head "a"
CLASSES = 3
RATE = 0.05
NAN = np.nan
EAGER = {"run_eagerly": True}


# ---------------------------------------------------------------------------- data


@dataclass
class Case:
    """A batch and what of it is a label.

    a, c    targets of the heads: numbers (N, T, K) and classes (N, T)
    weight  {head: sample weights (N, T)}, of some heads or none
    masked  time steps that Keras's mask hides, (N, T); they are 9 in the inputs
    loss    of head "c"
    """

    x: Array
    a: Array
    c: Array
    weight: dict[str, Array] | None = None
    masked: Array | None = None
    loss: dict[str, Any] = field(default_factory=dict)

    @property
    def y(self) -> dict[str, Array]:
        return {"a": self.a, "c": self.c}


def case(kind: str) -> Case:
    random = np.random.default_rng(3)
    x = random.normal(size=(N, T, IN)).astype("float32")
    a = random.normal(size=(N, T, K)).astype("float32")
    c = random.integers(0, CLASSES, (N, T))
    weight = random.uniform(0.5, 2.0, (N, T)).astype("float32")
    found = Case(x, a, c)
    if kind == "numbers":  # single numbers are missing
        found.a[0, 1, 0] = found.a[2, 0, 1] = found.a[3, 2] = NAN
    elif kind == "samples":
        found.a[1:3] = NAN
    elif kind == "classes":  # NaN among class numbers
        found.c = c.astype("float32")
        found.c[0] = found.c[2, 1] = NAN
    elif kind == "both":
        found.a[1:3] = found.a[0, 1, 0] = NAN
        found.c = c.astype("float32")
        found.c[2:] = NAN
        found.weight = {"a": weight, "c": weight[::-1]}
    elif kind == "none of a":
        found.a[:] = NAN
    elif kind == "none at all of c":
        found.c = np.full((N, T), NAN, "float32")
    elif kind == "ignored":
        found.c[0], found.c[1] = 1, [0, 1, 2]
        found.loss = {"ignore_class": 1}
    elif kind == "all ignored":
        found.c[:] = -1
        found.loss = {"ignore_class": -1}
    elif kind == "masked":
        found.masked = np.zeros((N, T), bool)
        found.masked[0, 1:] = found.masked[2, 2] = True
        found.x[found.masked] = 9
        found.a[1, 0] = NAN
    elif kind == "weights of zero":
        found.weight = {"a": np.zeros((N, T), "float32"), "c": weight}
    elif kind == "weights of one head":
        found.weight = {"c": weight}
    return found


KINDS = (
    "whole",
    "numbers",
    "samples",
    "classes",
    "both",
    "none of a",
    "none at all of c",
    "ignored",
    "all ignored",
    "masked",
    "weights of zero",
    "weights of one head",
)
METHODS = {"sum": pt.Sum(), "losses": pt.GLS(), "gradients": pt.IMTLG()}
PATHS = ("loss", "objectives")


# ---------------------------------------------------------------------------- by hand


class ByHand:
    """Losses, gradients and metrics of a linear network, float64.

    h = x W;  a = h A, squared error;  c = softmax(h C), cross-entropy
    """

    def __init__(self, given: Case, weights: dict[str, Array]) -> None:
        self.weights = {name: value.astype("float64") for name, value in weights.items()}
        x = given.x.astype("float64")
        seen = np.ones((N, T)) if given.masked is None else 1.0 - given.masked
        weight = given.weight or {}
        ones = np.ones((N, T))
        h = x @ self.weights["trunk"]
        a, logits = h @ self.weights["a"], h @ self.weights["c"]
        c = np.exp(logits - logits.max(-1, keepdims=True))
        c /= c.sum(-1, keepdims=True)
        ignored = given.loss.get("ignore_class")
        there_a = ~np.isnan(given.a) * seen[..., None]
        there_c = ~np.isnan(given.c) * seen * (given.c != ignored)
        y_a, y_c = np.nan_to_num(given.a), np.nan_to_num(given.c).astype(int)
        y_c = np.where(there_c > 0, y_c, 0)
        w_a, w_c = weight.get("a", ones) * ones, weight.get("c", ones) * ones
        one_hot = np.eye(CLASSES)[y_c]
        # The loss is a mean over labels, weights or not.
        share_a = w_a[..., None] * there_a / max(there_a.sum(), 1)
        share_c = w_c * there_c / max(there_c.sum(), 1)
        size = -np.log((one_hot * c).sum(-1))
        self.losses = {
            "a": float((share_a * (a - y_a) ** 2).sum()),
            "c": float((share_c * size).sum()),
        }
        self.active = {"a": bool(share_a.any()), "c": bool(share_c.any())}
        slopes = {"a": 2 * share_a * (a - y_a), "c": share_c[..., None] * (c - one_hot)}
        self.own = {name: np.einsum("nth,ntk->hk", h, slope) for name, slope in slopes.items()}
        self.shared = {
            name: np.einsum("nti,ntk,hk->ih", x, slope, self.weights[name])
            for name, slope in slopes.items()
        }
        right = there_c * (c.argmax(-1) == y_c)
        self.metrics = {
            "a_mae": (there_a * np.abs(a - y_a)).sum() / max(there_a.sum(), 1),
            "c_accuracy": right.sum() / max(there_c.sum(), 1),
            "c_weighted": (w_c * right).sum() / max((w_c * there_c).sum(), 1e-30),
        }

    def after(self, method: pt.Method) -> dict[str, Array]:
        """The weights after one step of gradient descent."""
        names = [name for name in "ac" if self.active[name]]
        rows = np.array([self.shared[name].ravel() for name in names])
        losses = np.array([self.losses[name] for name in names], "float32")
        found, _ = pt.weigh(method, (rows @ rows.T).astype("float32"), losses=losses)
        found = dict(zip(names, keras.ops.convert_to_numpy(found).astype("float64"), strict=True))
        result = dict(self.weights)
        own = method.needs != "losses"  # a method of losses weighs the whole loss
        for name, weight in found.items():
            result["trunk"] = result["trunk"] - RATE * weight * self.shared[name]
            share = 1.0 if own else weight
            result[name] = result[name] - RATE * share * self.own[name]
        return result


# ---------------------------------------------------------------------------- the same in polytape


def network(given: Case) -> keras.Model:
    inputs = keras.Input((T, IN))
    hidden = layers.Masking(9.0)(inputs) if given.masked is not None else inputs
    hidden = layers.Dense(HID, use_bias=False, name="trunk")(hidden)
    heads = {"a": layers.Dense(K, use_bias=False, name="a")(hidden)}
    heads["c"] = layers.Dense(CLASSES, activation="softmax", use_bias=False, name="c")(hidden)
    return pt.Model(inputs, heads)


def start(found: keras.Model) -> keras.Model:
    random = np.random.default_rng(5)
    for variable in found.trainable_variables:
        variable.assign(0.5 * random.normal(size=variable.shape))
    return found


READY: dict[Any, keras.Model] = {}  # compiled models take turns: no method here has a state


def ready(given: Case, path: str, method: str) -> keras.Model:
    key = path, method, given.masked is None, *given.loss.values()
    if key not in READY:
        READY[key] = compiled(given, path, METHODS[method])
    return start(READY[key])


def compiled(given: Case, path: str, method: pt.Method, **options: Any) -> keras.Model:
    found = network(given)
    cross = keras.losses.SparseCategoricalCrossentropy(**given.loss)
    options = {
        "optimizer": keras.optimizers.SGD(RATE),
        "combine": method,
        "metrics": {"a": ["mae"], "c": ["accuracy"]},
        "weighted_metrics": {
            "c": [keras.metrics.SparseCategoricalAccuracy(name="weighted")],
        },
        "verbose": 0,
        **EAGER,
        **options,
    }
    if path == "loss":
        found.compile(loss={"a": "mse", "c": cross}, **options)
    else:
        found.compile(objectives=[pt.Objective("a", "mse"), pt.Objective("c", cross)], **options)
    return found


def weights_of(found: keras.Model) -> dict[str, Array]:
    return {
        name: keras.ops.convert_to_numpy(found.get_layer(name).kernel) for name in ("trunk", *"ac")
    }


def check_logs(logs: dict[str, float], right: ByHand, prefix: str = "") -> None:
    losses = {f"{name}_loss": value for name, value in right.losses.items()}
    for name, value in {**losses, "loss": sum(losses.values()), **right.metrics}.items():
        np.testing.assert_allclose(logs[prefix + name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", PATHS)
def test_a_step_is_that_of_the_labels_there_are(path: str, method: str, kind: str) -> None:
    given = case(kind)
    found = ready(given, path, method)
    before = ByHand(given, weights_of(found))
    history = found.fit(
        given.x,
        given.y,
        sample_weight=given.weight,
        validation_data=(given.x, given.y, given.weight),
        batch_size=N,
        verbose=0,
    ).history
    logs = {name: values[0] for name, values in history.items()}
    assert "dropped" not in logs
    for name, value in before.after(METHODS[method]).items():
        np.testing.assert_allclose(
            weights_of(found)[name], value, rtol=1e-4, atol=2e-5, err_msg=name
        )
    check_logs(logs, before)
    check_logs(logs, ByHand(given, weights_of(found)), "val_")  # as evaluate() does it


@pytest.mark.parametrize("path", PATHS)
def test_compiled_and_out_of_a_data_set_of_which_nobody_knows_beforehand(path: str) -> None:
    given = case("both")

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return given.x, given.y, given.weight

    found = start(compiled(given, path, pt.UPGrad(), run_eagerly=False))
    before = ByHand(given, weights_of(found))
    logs = found.fit(Batches(), verbose=0).history
    for name, value in before.after(pt.UPGrad()).items():
        np.testing.assert_allclose(weights_of(found)[name], value, rtol=1e-4, atol=2e-5)
    check_logs({name: values[0] for name, values in logs.items()}, before)


def test_the_step_is_made_anew_when_labels_begin_to_miss() -> None:
    given, holed = case("whole"), case("samples")
    found = start(compiled(given, "loss", pt.Sum(), run_eagerly=False))
    found.train_on_batch(given.x, given.y)
    found.test_on_batch(given.x, given.y)
    before = ByHand(holed, weights_of(found))
    found.train_on_batch(holed.x, holed.y)
    for name, value in before.after(pt.Sum()).items():
        np.testing.assert_allclose(weights_of(found)[name], value, rtol=1e-4, atol=2e-5)
    after = ByHand(holed, weights_of(found))
    found.reset_metrics()
    check_logs(found.test_on_batch(holed.x, holed.y, return_dict=True), after)


@pytest.mark.parametrize("path", PATHS)
def test_means_over_an_epoch_are_over_labels_not_over_batches(path: str) -> None:
    given = case("whole")
    found = start(compiled(given, path, pt.Sum()))
    found.optimizer.learning_rate = 0.0
    holed = case("whole")
    holed.a[0], holed.a[1, :2] = NAN, NAN  # batches of 2: 2 labels of 12, 12 of 12
    right = ByHand(holed, weights_of(found))
    history = found.fit(given.x, holed.y, batch_size=2, shuffle=False, verbose=0).history
    for name in ("a_mae", "c_accuracy"):
        np.testing.assert_allclose(history[name], right.metrics[name], rtol=1e-5)
    np.testing.assert_allclose(history["a_loss"], right.losses["a"], rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_without_any_label_changes_nothing_and_is_told(path: str) -> None:
    given = case("none at all of c")
    given.a[:] = NAN
    found = start(compiled(given, path, pt.Sum(), optimizer=keras.optimizers.Adam(RATE)))
    before = weights_of(found)
    with pytest.warns(UserWarning, match="no objective was active: no label in the batch"):
        found.fit(given.x, given.y, batch_size=N, verbose=0)
    for name, value in weights_of(found).items():
        np.testing.assert_array_equal(value, before[name])


# ---------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("source", ["arrays", "data set"])
def test_the_warning_names_targets_or_inputs_if_it_is_them(path: str, source: str) -> None:
    def warned(given: Case, words: str) -> None:
        found = start(compiled(given, path, pt.IMTLG()))
        data: Any = [given.x, given.y]
        if source == "data set":

            class Batches(keras.utils.PyDataset):
                def __len__(self) -> int:
                    return 1

                def __getitem__(self, index: int) -> Any:
                    return given.x, given.y

            data = [Batches()]
        with pytest.warns(RuntimeWarning, match=words):
            found.fit(*data, batch_size=None if source == "data set" else N, verbose=0)

    given = case("whole")
    given.a[1, 1, 1] = np.inf
    warned(given, r"'a' \(1 x\)\. The targets of objective 'a' contain Inf\. `on_nonfinite")
    given = case("whole")
    given.x[0, 0, 0] = NAN
    warned(given, r"'a' \(1 x\), 'c' \(1 x\)\. The inputs contain NaN\. `on_nonfinite")


def test_the_error_names_targets_if_it_is_them() -> None:
    given = case("whole")
    given.a[1, 1, 1] = np.inf
    found = start(compiled(given, "loss", pt.IMTLG(), on_nonfinite="raise"))
    with pytest.raises(FloatingPointError, match=r"'a' \(1 x\)\. The targets of objective 'a'"):
        found.train_on_batch(given.x, given.y)
    given.a[1, 1, 1] = 0
    found.train_on_batch(given.x, given.y)


# ---------------------------------------------------------------------------- weights


def test_sample_weights_of_something_that_is_no_target() -> None:
    given = case("whole")
    found = ready(given, "loss", "sum")
    with pytest.raises(ValueError, match=r"for 'cc', which is not a target. Did you mean 'c'"):
        found.fit(given.x, given.y, sample_weight={"cc": np.ones((N, T))}, verbose=0)


CLASS_WEIGHT = {0: 0.5, 2: 3.0}  # class 1 counts once


def labels(form: str) -> tuple[Array, Any, int, str]:
    """Targets of a form, a Keras loss for them, its outputs, and their activation."""
    numbers = np.random.default_rng(1).integers(0, CLASSES, 8)
    if form == "sparse":
        return numbers, "sparse_categorical_crossentropy", CLASSES, "softmax"
    if form == "sparse, some missing":
        found = numbers.astype("float32")
        found[2] = NAN
        return found, "sparse_categorical_crossentropy", CLASSES, "softmax"
    if form == "one-hot":
        one_hot = np.eye(CLASSES, dtype="float32")[numbers]
        return one_hot, "categorical_crossentropy", CLASSES, "softmax"
    return (numbers > 0).astype("float32")[:, None], "binary_crossentropy", 1, "sigmoid"


@pytest.mark.parametrize("form", ["sparse", "sparse, some missing", "one-hot", "binary"])
def test_classes_of_an_objective_weigh_as_sample_weights_do(form: str) -> None:
    y, loss, count, activation = labels(form)
    x = np.random.default_rng(2).normal(size=(8, IN)).astype("float32")
    classes = y.argmax(-1) if form == "one-hot" else np.nan_to_num(y).reshape(8).astype(int)
    weight = np.array([CLASS_WEIGHT.get(int(number), 1.0) for number in classes], "float32")
    given = np.linspace(0.5, 1.5, 8).astype("float32")
    metrics = {"a": ["accuracy"]}
    results = []
    for class_weight, sample_weight in ((CLASS_WEIGHT, given), (None, given * weight)):
        inputs = keras.Input((IN,))
        heads = {
            name: layers.Dense(units, activation=kind, name=name)(inputs)
            for name, units, kind in (("a", count, activation), ("b", 1, None))
        }
        found = start(pt.Model(inputs, heads))
        found.compile(
            keras.optimizers.SGD(RATE),
            objectives=[
                pt.Objective("a", loss, class_weight=class_weight),
                pt.Objective("b", "mse"),
            ],
            weighted_metrics=metrics,
            verbose=0,
            **EAGER,
        )
        logs = found.fit(x, {"a": y, "b": x[:, :1]}, sample_weight={"a": sample_weight}, verbose=0)
        kernels = [keras.ops.convert_to_numpy(v) for v in found.trainable_variables]
        results.append([*kernels, *(np.array(v) for v in logs.history.values())])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_classes_of_pixels_and_a_class_that_the_loss_ignores() -> None:
    given = case("all ignored")
    given.c[:] = np.random.default_rng(0).integers(-1, CLASSES, (N, T))
    weight = {"c": np.vectorize(lambda number: CLASS_WEIGHT.get(number, 1.0))(given.c)}
    found = start(network(given))
    cross = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    found.compile(
        objectives=[pt.Objective("c", cross, class_weight=CLASS_WEIGHT)], verbose=0, **EAGER
    )
    given.weight = weight
    right = ByHand(given, weights_of(found)).losses["c"]
    logs = found.evaluate(given.x, given.y, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["c_loss"], right, rtol=1e-5)


def test_class_weights_are_saved_with_the_objective() -> None:
    objective = pt.Objective("a", "binary_crossentropy", class_weight={0: 1, np.int64(7): 5.0})
    config = keras.saving.serialize_keras_object(objective)
    import json

    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert again.class_weight == {0: 1.0, 7: 5.0}
    plain = pt.Objective("a", "mse")
    assert pt.Objective.from_config(plain.get_config()).class_weight is None


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ([1.0, 5.0], TypeError, r"'a': `class_weight` is a dict of class numbers.*of type list"),
        ({}, TypeError, r"'a': `class_weight` is a dict.*Received: \{\}"),
        ({"0": 1.0}, ValueError, r"by class number, from 0. Received: '0' of type str"),
        ({-1: 1.0}, ValueError, r"by class number, from 0. Received: -1"),
        ({True: 1.0}, ValueError, r"by class number, from 0. Received: True"),
        ({0: NAN}, ValueError, r"class_weight\[0\] must be a finite number, not below zero.*nan"),
        ({0: -1.0}, ValueError, r"class_weight\[0\] must be.*Received: -1.0"),
        ({1: "5"}, ValueError, r"class_weight\[1\] must be.*Received: '5' of type str"),
    ],
)
def test_class_weights_that_cannot_be_meant(given: Any, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        pt.Objective("a", "mse", class_weight=given)


def test_class_weights_where_there_are_no_classes() -> None:
    with pytest.raises(ValueError, match=r"A function of the step weighs them itself"):
        pt.Objective("a", lambda step: step.outputs["a"], class_weight={0: 1.0})
    given = case("whole")
    found = network(given)
    found.compile(objectives=[pt.Objective("a", "mse", class_weight={0: 2.0})], verbose=0, **EAGER)
    with pytest.raises(ValueError, match=r"each of the 2 numbers of the output as a label of"):
        found.train_on_batch(given.x, given.y)


def test_class_weight_of_fit_is_kerass_for_one_output_and_refused_for_several() -> None:
    y = np.random.default_rng(1).integers(0, 2, 8)
    x = np.random.default_rng(2).normal(size=(8, IN)).astype("float32")
    after = []
    for cls in (keras.Model, pt.Model):
        inputs = keras.Input((IN,))
        found = cls(inputs, layers.Dense(2, activation="softmax")(inputs))
        start(found).compile("sgd", "sparse_categorical_crossentropy", **EAGER)
        found.fit(x, y, class_weight={0: 1.0, 1: 5.0}, shuffle=False, verbose=0)
        after.append(keras.ops.convert_to_numpy(found.trainable_variables[0]))
    np.testing.assert_array_equal(*after)
    given = case("whole")
    words = r"several targets. Give each output its own.*pt.Objective\(.*class_weight="
    for class_weight in ({0: 1.0}, {"a": {0: 1.0}}):
        for method in ("fit", "train_on_batch"):
            with pytest.raises(ValueError, match=words):
                getattr(ready(given, "loss", "sum"), method)(
                    given.x, given.y, class_weight=class_weight
                )


# ---------------------------------------------------------------------------- compare


def test_compare_trains_on_the_labels_of_a_problem() -> None:
    from polytape.compare import compare
    from polytape.problems import Problem

    random = np.random.default_rng(0)
    x = random.normal(size=(16, IN)).astype("float32")
    y = {"a": x[:, :2].copy(), "c": random.integers(0, CLASSES, 16).astype("float32")}
    y["a"][::2, 0] = y["c"][4:] = NAN

    def build() -> Any:
        inputs = keras.Input((IN,))
        hidden = layers.Dense(HID)(inputs)
        heads = {"a": layers.Dense(2, name="a")(hidden)}
        heads["c"] = layers.Dense(CLASSES, activation="softmax", name="c")(hidden)
        return inputs, heads

    problem = Problem(
        "holed",
        "Some labels are missing.",
        ("a", "c"),
        build,
        lambda: (x, y, x, y),
        losses={"a": "mse", "c": "sparse_categorical_crossentropy"},
        metrics={"c": ["accuracy"]},
        headline={"a": ("loss", "min"), "c": ("accuracy", "max")},
        batch_size=4,
    )
    found = compare(problem, {"Sum": pt.Sum(), "IMTLG": pt.IMTLG()}, seeds=1, epochs=2)
    assert [run.status for run in found.runs] == ["finished", "finished"], found.runs
    for run in found.runs:
        assert 0 < run.history["a_loss"][-1] < 10
        assert np.isfinite(run.cosines).all()
        assert min(run.norms[-1]) > 0
