"""Every example an objective: the same as T scalar objectives, in `fit` and in loops."""

import re
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from polytape.callbacks import GradientMonitor
from slopes import slope

pytestmark = pytest.mark.engine

N, CLASSES = 6, 3
CROSS = "sparse_categorical_crossentropy"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype("float32")
Y = RNG.integers(0, CLASSES, N).astype("int32")
STEPS = RNG.normal(size=(N, 2, 5)).astype("float32")


def filled(model: keras.Model) -> Any:
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(0.6 * rng.normal(size=variable.shape))
    return model


def classifier(*between: layers.Layer, **settings: Any) -> Any:
    inputs = keras.Input((5,))
    hidden = layers.Dense(8, activation="elu", name="trunk", **settings)(inputs)
    for layer in between:
        hidden = layer(hidden)
    outputs = layers.Dense(CLASSES, activation="softmax", name="digit")(hidden)
    return filled(pt.Model(inputs, {"digit": outputs}))


def weights(model: keras.Model) -> np.ndarray:
    found = [ops.convert_to_numpy(v.value).ravel() for v in model.trainable_variables]
    return np.concatenate(found)


def compiled(model: Any, objectives: Any, combine: Any = "upgrad", **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer = settings.pop("optimizer", None) or keras.optimizers.SGD(0.3)
        model.compile(optimizer, objectives=objectives, combine=combine, verbose=0, **settings)
    return model


def scalar(index: int, count: int, loss: Any = None, key: str = "digit") -> pt.Objective:
    """One example as a scalar objective: its part of the mean over `count`."""
    known = keras.losses.get(loss or CROSS)

    def part(step: pt.Step) -> Any:
        own = slice(index, index + 1)
        y_true, y_pred = step.targets[key][own], step.outputs[key][own]
        return ops.sum(known(y_true, y_pred)) / count

    return pt.Objective(f"{key}{index}", part)


def single(model: Any, among: Any = range(N), method: Any = "upgrad") -> np.ndarray:
    """The weights after a step with every example among some a scalar objective."""
    objectives = [scalar(index, len(among)) for index in among]
    compiled(model, objectives, method, private="joint").train_on_batch(X, {"digit": Y})
    return weights(model)


@pytest.mark.parametrize("method", ["upgrad", "mgda", "cagrad", "aligned_mtl", "mean"])
def test_a_step_is_that_of_scalar_objectives(method):
    model = compiled(classifier(), [pt.Objective("digit", CROSS, per="example")], method)
    model.train_on_batch(X, {"digit": Y})
    assert np.allclose(weights(model), single(classifier(), method=method), atol=2e-5)


def test_sum_is_what_it_is_without():
    found = []
    for per in ("example", None):
        model = compiled(classifier(), [pt.Objective("digit", CROSS, per=per)], "sum")
        found.append((model.fit(X, {"digit": Y}, shuffle=False, verbose=0).history, weights(model)))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])


def test_random_layers_and_added_losses():
    """Those that draw numbers draw the same when they are looked at again."""

    def make() -> Any:
        inputs = keras.Input((2, 5))
        hidden = layers.LSTM(4, dropout=0.3, seed=3, activity_regularizer="l2")(inputs)
        hidden = layers.Dropout(0.2, seed=4)(hidden)
        outputs = layers.Dense(CLASSES, activation="softmax", kernel_regularizer="l2", name="digit")
        return filled(pt.Model(inputs, {"digit": outputs(hidden)}))

    one = compiled(make(), [pt.Objective("digit", CROSS, per="example")])
    one.train_on_batch(STEPS, {"digit": Y})
    other = compiled(make(), [scalar(i, N) for i in range(N)], private="joint")
    other.train_on_batch(STEPS, {"digit": Y})
    assert np.allclose(weights(one), weights(other), atol=2e-5)


def test_what_fills_up_a_batch_is_not_there():
    """Zero sample weights, missing labels, and rows that another task has labels for."""
    objective = pt.Objective("digit", CROSS, per="example")
    there = [0, 2, 3, 5]
    expected = single(classifier(), there)
    model = compiled(classifier(), [objective])
    model.train_on_batch(X, {"digit": Y}, {"digit": np.isin(np.arange(N), there).astype("float32")})
    # Keras's mean counts examples of weight zero, too.
    fewer = compiled(classifier(), [objective], optimizer=keras.optimizers.SGD(0.3 * N / 4))
    fewer.train_on_batch(X, {"digit": Y}, {"digit": np.isin(np.arange(N), there).astype("float32")})
    assert np.allclose(weights(fewer), expected, atol=2e-5)
    assert not np.allclose(weights(model), expected, atol=2e-5)
    labels = np.eye(CLASSES, dtype="float32")[Y]
    labels[[1, 4]] = np.nan
    model = compiled(
        classifier(), [pt.Objective("digit", "categorical_crossentropy", per="example")]
    )
    model.train_on_batch(X, {"digit": labels})
    assert np.allclose(weights(model), expected, atol=2e-5)


@pytest.mark.compiled
def test_a_last_batch_with_fewer_examples():
    model = compiled(classifier(), [pt.Objective("digit", CROSS, per="example")])
    model.fit(X, {"digit": Y}, batch_size=4, shuffle=False, verbose=0)
    other = classifier()
    compiled(other, [pt.Objective("digit", CROSS, per="example")])
    other.train_on_batch(X[:4], {"digit": Y[:4]})
    other.train_on_batch(X[4:], {"digit": Y[4:]})
    assert np.allclose(weights(model), weights(other), atol=2e-5)


@pytest.mark.compiled
def test_nothing_is_compiled_twice():
    """Partial batches filled up, other objectives inactive, other weights: one programme."""
    traced = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        traced.append(1)
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    inputs = keras.Input((5,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    heads = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
    model = pt.Model(inputs, heads)
    objectives = [
        pt.Objective("a", loss, per="example"),
        pt.Objective("b", loss, per="example", when=lambda step: step.count < 1),
    ]
    compiled(model, objectives)
    y = dict.fromkeys("ab", X[:, :1])
    ones = np.ones(N, "float32")
    model.fit(X, y, sample_weight={"a": ones, "b": ones}, batch_size=N, verbose=0)
    once = len(traced)
    model.reweight({"a": 0.5})
    filled_up = (np.arange(N) < 2).astype("float32")
    model.fit(X, y, sample_weight={"a": filled_up, "b": ones}, batch_size=N, verbose=0)
    if keras.backend.backend() == "torch":  # nothing is compiled, and each step evaluates it
        assert len(traced) == 2 * once
    else:
        assert len(traced) == once


def test_tasks_and_time_steps_and_routes():
    def make() -> Any:
        inputs = keras.Input((2, 5))
        hidden = layers.LSTM(6, return_sequences=True, name="trunk")(inputs)
        heads = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
        return filled(pt.Model(inputs, heads))

    y = {name: STEPS[:3, :, i : i + 1] for i, name in enumerate("ab")}
    one = compiled(
        make(),
        [
            pt.Objective("a", "mse", per="step", weight=2.0),
            pt.Objective("b", "mse", per="example", trains=["trunk", "b"]),
        ],
    )
    one.train_on_batch(STEPS[:3], y)

    def part(key: str, i: int, t: Any, weight: float, trains: Any = None) -> pt.Objective:
        def loss(step: pt.Step) -> Any:
            error = ops.square(ops.subtract(step.targets[key], step.outputs[key]))[i]
            return weight * (ops.sum(error) if t is None else ops.sum(error[t])) / 6

        return pt.Objective(f"{key}{i}{t}", loss, trains=trains)

    parts = [part("a", i, t, 2.0) for i in range(3) for t in range(2)]
    parts += [part("b", i, None, 1.0, ["trunk", "b"]) for i in range(3)]
    other = compiled(make(), parts, private="joint")
    other.train_on_batch(STEPS[:3], y)
    assert np.allclose(weights(one), weights(other), atol=5e-5)


def test_a_function_of_the_step():
    def loss(step: pt.Step) -> Any:
        known = keras.losses.SparseCategoricalCrossentropy(reduction=None)
        return known(step.targets["digit"], step.outputs["digit"])

    model = compiled(classifier(), [pt.Objective("digit", loss, per="example")])
    found = model.train_on_batch(X, {"digit": Y}, return_dict=True)
    assert np.allclose(weights(model), single(classifier()), atol=2e-5)
    assert found["digit_loss"] == pytest.approx(float(found["loss"]))
    whole = pt.Objective("digit", lambda step: ops.mean(step.outputs["digit"]), per="example")
    broken = compiled(classifier(), [whole])
    with pytest.raises(ValueError, match=r"per='example': its function returns one loss for each"):
        broken.train_on_batch(X, {"digit": Y})


def test_an_example_that_is_not_finite_is_left_out_alone():
    x = X.copy()
    x[1] = np.inf
    objective = pt.Objective("digit", CROSS, per="example")
    model = compiled(classifier(), [objective], optimizer=keras.optimizers.SGD(0.3 * N / (N - 1)))
    history = model.fit(x, {"digit": Y}, batch_size=N, verbose=0).history
    assert np.allclose(weights(model), single(classifier(), [0, 2, 3, 4, 5]), atol=2e-5)
    assert history["dropped"] == [1]
    skipping = compiled(classifier(), [objective], on_nonfinite="skip")
    skipping.fit(x, {"digit": Y}, batch_size=N, verbose=0)
    assert np.array_equal(weights(skipping), weights(classifier()))


def test_it_is_saved_monitored_and_explained(tmp_path):
    model = compiled(classifier(), [pt.Objective("digit", CROSS, per="example")])
    monitor = GradientMonitor(tmp_path / "run")
    model.fit(X, {"digit": Y}, batch_size=N, verbose=0, callbacks=[monitor])
    assert pt.explain(model, X, {"digit": Y}) is not None
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.compilation.settings.objectives.given["digit"].per == "example"
    for each in (model, again):
        each.train_on_batch(X, {"digit": Y})
    assert np.allclose(weights(model), weights(again), atol=1e-6)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("dwa", "keeps a state for each objective"),
        (pt.GradVac(), "keeps a state for each objective"),
        ("graddrop", "T rows as large as the parameters"),
        ("modo", "the gradients of two half batches"),
        (pt.Every(pt.UPGrad()), "keeps a state for each objective"),
    ],
    ids=str,
)
def test_methods_that_cannot(method, why):
    objective = pt.Objective("digit", CROSS, per="example")
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        compiled(classifier(), [objective], method)
    assert 'such as "upgrad"' in str(caught.value)


def test_layers_that_mix_examples():
    objective = pt.Objective("digit", CROSS, per="example")
    mixing = compiled(classifier(layers.BatchNormalization(name="norm")), [objective])
    with pytest.raises(ValueError, match="'norm' is a BatchNormalization in training mode"):
        mixing.train_on_batch(X, {"digit": Y})
    assert np.array_equal(weights(mixing), weights(classifier(layers.BatchNormalization())))
    resting = layers.BatchNormalization(name="norm", trainable=False)
    compiled(classifier(resting), [objective]).train_on_batch(X, {"digit": Y})
    whole = layers.SpectralNormalization(layers.Dense(8), name="bounded")
    with pytest.raises(ValueError, match="'bounded' is a SpectralNormalization in training mode"):
        compiled(classifier(whole), [objective]).train_on_batch(X, {"digit": Y})


class Positioned(layers.Layer):
    """Looks up positions, which have no batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.table = layers.Embedding(8, 8, name="positions")
        self.table.build()

    def call(self, x: Any) -> Any:
        return x + ops.sum(self.table(ops.arange(4)), axis=0)


def test_layers_without_the_axis_of_examples():
    model = compiled(classifier(Positioned()), [pt.Objective("digit", CROSS, per="example")])
    with pytest.raises(ValueError, match=r"positions' gives out a tensor of shape \(4, 8\)"):
        model.train_on_batch(X, {"digit": Y})


def test_objectives_that_do_not_fit():
    with pytest.raises(ValueError, match='`per` is "example", "step" or None'):
        pt.Objective("digit", CROSS, per="sample")
    both = [
        pt.Objective("digit", CROSS, per="example"),
        pt.Objective("size", lambda step: ops.mean(step.outputs["digit"] ** 2)),
    ]
    with pytest.raises(ValueError, match="'size' beside it is one objective for the whole batch"):
        compiled(classifier(), both)
    compiled(classifier(), both, phases=["digit", "size"]).train_on_batch(X, {"digit": Y})
    steps = compiled(classifier(), [pt.Objective("digit", CROSS, per="step")])
    with pytest.raises(ValueError, match="does not come step by step"):
        steps.train_on_batch(X, {"digit": Y})
    with pytest.raises(ValueError, match="measure='outputs'"):
        compiled(classifier(), both[:1], measure="outputs")


def test_variables_used_outside_of_layers():
    model = classifier()
    kernel = model.get_layer("trunk").kernel

    def loss(step: pt.Step) -> Any:
        return ops.sum(step.outputs["digit"], axis=-1) * ops.sum(kernel.value**2)

    compiled(model, [pt.Objective("digit", loss, per="example")])
    with pytest.raises(ValueError, match="'trunk/kernel' outside of the call of a layer"):
        model.train_on_batch(X, {"digit": Y})


def test_derivatives_taken_by_hand():
    """What they say of the weights does not pass the outputs of layers."""
    model = classifier()
    trunk = model.get_layer("trunk")

    def loss(step: pt.Step) -> Any:
        found = slope(lambda x: trunk(x) ** 2, step.inputs)
        return ops.sum(step.outputs["digit"], axis=-1) + ops.sum(found**2, axis=-1)

    compiled(model, [pt.Objective("digit", loss, per="example")])
    with pytest.raises(ValueError, match="'trunk/kernel' outside of the call of a layer"):
        model.train_on_batch(X, {"digit": Y})


# ---------------------------------------------------------------------- loops of one's own


def loop_losses(model: Any, reduced: bool = False) -> Any:
    outputs = model(ops.convert_to_tensor(X))["digit"]
    known = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    losses = known(ops.convert_to_tensor(Y), outputs)
    return {str(i): losses[i] for i in range(N)} if reduced else {"digit": losses}


@pytest.mark.parametrize("method", ["upgrad", "pcgrad"])
def test_gradients_of_a_loop(method):
    model = classifier()
    grads = pt.gradients(lambda: loop_losses(model), model, per="example")
    assert tuple(grads.gramian.shape) == (N, N)
    assert list(grads.losses)[:2] == ["digit[0]", "digit[1]"]
    single = pt.gradients(lambda: loop_losses(model, reduced=True), model)
    assert np.allclose(
        ops.convert_to_numpy(grads.gramian), ops.convert_to_numpy(single.gramian), rtol=1e-4
    )
    if method == "upgrad":
        found, expected = grads.combine(method), single.combine(method, private="joint")
    else:  # it draws random numbers
        found = grads.combine(pt.Combiner(method))
        expected = pt.Combiner(method, private="joint")(single)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(
            ops.convert_to_numpy(ops.stop_gradient(one)),
            ops.convert_to_numpy(ops.stop_gradient(other)),
            atol=1e-4,
        )
    assert "Gradients of 6 objectives" in repr(grads)


def test_rows_of_a_loop_that_only_fill_up():
    model = classifier()
    active = np.arange(N) < 4
    grads = pt.gradients(lambda: loop_losses(model), model, per="example", active=active)

    def fewer() -> Any:
        return {name: loss for name, loss in loop_losses(model, True).items() if int(name) < 4}

    expected = pt.gradients(fewer, model).combine("upgrad", private="joint")
    for one, other in zip(grads.combine("upgrad"), expected, strict=True):
        assert np.allclose(
            ops.convert_to_numpy(ops.stop_gradient(one)),
            ops.convert_to_numpy(ops.stop_gradient(other)),
            atol=1e-4,
        )


def test_what_a_loop_gets_wrong():
    model = classifier()

    def losses() -> Any:
        return loop_losses(model)

    with pytest.raises(TypeError, match="give the model or the layers themselves"):
        pt.gradients(losses, model.trainable_variables, per="example")
    with pytest.raises(ValueError, match=r"losses of shape \(N, L\), not reduced"):
        pt.gradients(losses, model, per="step")
    with pytest.raises(ValueError, match='`per` is "example"'):
        pt.gradients(losses, model, per="row")
    with pytest.raises(ValueError, match="Leave one of them out"):
        pt.gradients(losses, model, per="example", measure="features")
    grads = pt.gradients(losses, model, per="example")
    with pytest.raises(ValueError, match="leave out `losses` and `variables`"):
        grads.combine("upgrad", losses=["digit[0]"])
    with pytest.raises(ValueError, match="T rows as large as the parameters"):
        grads.combine(pt.Combiner("graddrop"))
    with pytest.raises(ValueError, match="Give one boolean for each loss"):
        pt.gradients(losses, model, per="example", active=[True])


@pytest.mark.compiled
def test_layers_without_a_formula_are_compiled():
    """Recurrent layers, those with random numbers, and others that are pulled back row by row."""

    def make() -> Any:
        inputs = keras.Input((2, 5))
        hidden = layers.LSTM(3, dropout=0.3, seed=3)(inputs)
        hidden = layers.PReLU()(hidden)
        return filled(pt.Model(inputs, {"digit": layers.Dense(CLASSES, name="digit")(hidden)}))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    one = compiled(make(), [pt.Objective("digit", loss, per="example")])
    one.fit(STEPS, {"digit": Y}, batch_size=N, shuffle=False, verbose=0)
    parts = [scalar(i, N, keras.losses.SparseCategoricalCrossentropy(True)) for i in range(N)]
    other = compiled(make(), parts, private="joint", run_eagerly=keras.backend.backend() != "jax")
    other.train_on_batch(STEPS, {"digit": Y})
    assert np.allclose(weights(one), weights(other), atol=2e-5)
