"""Conflict measured at features or outputs: `compile(measure=...)`."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from small import arrays, assert_same, everything
from two_layers import HEADS, SIZES, TRUNK, Array, X, Y, by_hand, gramian, min_norm

RATE = 0.05


def dense(units: int, name: str) -> layers.Layer:
    return layers.Dense(units, use_bias=False, name=name)


def functional(cls: type = pt.Model, mark: bool = True, **trunk: object) -> keras.Model:
    inputs = keras.Input((4,))
    hidden = layers.Dense(3, use_bias=False, name="trunk", **trunk)(inputs)
    hidden = pt.Features()(hidden) if mark else hidden
    return cls(inputs, {name: dense(1, name)(hidden) for name in "ab"})


class Subclassed(pt.Model):
    """The same network, the mark inside `call`."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.mark = dense(3, "trunk"), pt.Features()
        self.a, self.b = dense(1, "a"), dense(1, "b")

    def call(self, x: object) -> dict[str, object]:
        hidden = self.mark(self.trunk(x))
        return {"a": self.a(hidden), "b": self.b(hidden)}


BUILDS = {
    "functional": functional,
    "subclassed": Subclassed,
    "wrapped": lambda: pt.Model.wrap(functional(keras.Model)),
}


def ready(build: object = functional, combine: object = "mgda", **options: object) -> keras.Model:
    """Compiled, with the weights of `two_layers`."""
    found = build()
    found(X)
    for variable, value in zip(found.trainable_variables, (TRUNK, *HEADS.values()), strict=True):
        variable.assign(value)
    options = {"measure": "features", "loss_weights": SIZES, **options}
    options.setdefault("optimizer", keras.optimizers.SGD(RATE))
    found.compile(loss={"a": "mse", "b": "mse"}, combine=combine, **options)
    return found


def step(found: keras.Model, times: int = 1, y: dict = Y) -> keras.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(times):
            found.fit(X, y, batch_size=len(X), shuffle=False, verbose=0)
    return found


def loop(steps: int, weigh: object, rate: float = RATE) -> list[Array]:
    """The same training by hand: `weigh` gives the weights for a Gramian at the features."""
    trunk, heads = TRUNK.astype("float64"), {n: v.astype("float64") for n, v in HEADS.items()}
    for index in range(steps):
        features, own, _ = by_hand(trunk, heads)
        weights = weigh(gramian(features), index)
        combined = sum(w * row for w, row in zip(weights, features, strict=True))
        trunk = trunk - rate * X.T @ combined
        heads = {n: v - rate * g for (n, v), g in zip(heads.items(), own, strict=True)}
    return [trunk, *heads.values()]


def mgda_ub(products: Array, index: int = 0) -> Array:
    return 2 * min_norm(products)


def assert_trained(found: keras.Model, wanted: list[Array]) -> None:
    for one, other in zip(arrays(found.trainable_variables), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", BUILDS)
def test_mgda_ub_is_the_loop_by_hand(name: str) -> None:
    assert_trained(step(ready(BUILDS[name]), 3), loop(3, mgda_ub))


def test_it_is_another_update_than_that_of_the_parameters() -> None:
    ours, theirs = (step(ready(measure=measure)) for measure in ("features", "parameters"))
    assert not np.allclose(*(arrays(m.trainable_variables)[0] for m in (ours, theirs)), rtol=1e-2)


def clipped(products: Array, index: int = 0) -> Array:
    """Rows clipped to 0.5, then PCGrad of two."""
    norms = np.sqrt(np.diag(products))
    clip = np.minimum(1.0, 0.5 / norms)
    g = products * clip[:, None] * clip
    assert g[0, 1] < 0
    return clip * (1 - g[0, 1] / np.diag(g))


def every_other(products: Array, index: int, kept: list = []) -> Array:  # noqa: B006
    kept[:] = [mgda_ub(products)] if index % 2 == 0 else kept
    return kept[0]


def normalized(products: Array, index: int = 0) -> Array:
    return 0.5 / np.sqrt(np.diag(products))


CHAINS = {
    "clip, pcgrad": (pt.Chain(pt.Clip(0.5), pt.PCGrad()), clipped),
    "every": (pt.Every(pt.MGDA(), 2), every_other),
    "normalize": (pt.Chain(pt.Normalize(), pt.Mean()), normalized),
}


@pytest.mark.parametrize("name", CHAINS)
def test_stages(name: str) -> None:
    combine, weigh = CHAINS[name]
    assert_trained(step(ready(combine=combine), 2), loop(2, weigh))


def test_loss_weighting_in_front_reaches_the_heads() -> None:
    found = step(ready(combine=pt.Chain(pt.Reweight({"a": 3.0, "b": 2.0}), pt.MGDA())))
    features, own, _ = by_hand(TRUNK, HEADS)
    weights = mgda_ub(gramian([3 * features[0], 2 * features[1]])) * [3, 2]
    combined = weights[0] * features[0] + weights[1] * features[1]
    heads = [TRUNK - RATE * X.T @ combined]
    heads += [v - RATE * f * g for v, f, g in zip(HEADS.values(), (3, 2), own, strict=True)]
    assert_trained(found, heads)


def test_encodec_balancer_at_the_outputs() -> None:
    inputs = keras.Input((4,))
    found = pt.Model(inputs, dense(1, "out")(inputs))
    kernel = TRUNK[:, :1]
    found.trainable_variables[0].assign(kernel)
    found.compile(
        keras.optimizers.SGD(RATE),
        loss=["mse", "mae"],
        combine=pt.EncodecBalancer((3.0, 1.0), norm=2.0, decay=0.9),
        measure="outputs",
    )
    step(found, 2, Y["a"])
    means, bias = np.zeros(2), 0.0
    for _ in range(2):
        error = X @ kernel - Y["a"]
        rows = [2 * error / 8, np.sign(error) / 8]
        means = 0.9 * means + 0.1 * np.array([np.linalg.norm(row) for row in rows])
        bias = 0.9 * bias + 0.1
        weights = 2.0 * np.array([0.75, 0.25]) * bias / means
        kernel = kernel - RATE * X.T @ (weights[0] * rows[0] + weights[1] * rows[1])
    assert_trained(found, [kernel])


def test_outputs_of_any_nest() -> None:
    inputs = keras.Input((4,))
    hidden = dense(3, "trunk")(inputs)
    ids = layers.Lambda(lambda x: ops.argmax(x, axis=-1), name="ids")(hidden)
    nest = {"g": [dense(1, "a")(hidden), dense(1, "b")(hidden)], "ids": ids}

    found = pt.Model(inputs, nest)
    for variable, value in zip(found.trainable_variables, (TRUNK, *HEADS.values()), strict=True):
        variable.assign(value)
    loss = {"g": [keras.losses.MeanSquaredError(name=name) for name in "ab"]}
    weigh = pt.Chain(pt.Normalize(), pt.Sum())
    found.compile(keras.optimizers.SGD(RATE), loss, combine=weigh, measure="outputs")
    found.fit(X, {"g": [Y["a"], Y["b"]]}, batch_size=8, verbose=0)
    features, own, outputs = by_hand(TRUNK, HEADS)
    weights = [1 / np.linalg.norm(row) for row in outputs]
    heads = [v - RATE * g / s for v, g, s in zip(HEADS.values(), own, SIZES.values(), strict=True)]
    combined = sum(w * row for w, row in zip(weights, features, strict=True))
    assert_trained(found, [TRUNK - RATE * X.T @ combined, *heads])


def test_outputs_keep_their_masks() -> None:
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    y = np.ones((2, 3, 1), "float32")
    told = []
    for measure in ("parameters", "outputs"):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,), dtype="int32")
        hidden = layers.Embedding(5, 3, mask_zero=True)(inputs)
        found = pt.Model(inputs, {name: layers.Dense(1, name=name)(hidden) for name in "ab"})
        found.compile("sgd", {"a": "mse", "b": "mae"}, combine="upgrad", measure=measure)
        told.append(found.fit(tokens, {"a": y, "b": y}, verbose=0).history["loss"])
    np.testing.assert_allclose(*told, rtol=1e-6)


def test_added_losses_are_added_as_they_are() -> None:
    found = ready(lambda: functional(kernel_regularizer=keras.regularizers.L2(0.7)))
    trunk, *heads = loop(1, mgda_ub)
    assert_trained(step(found), [trunk - RATE * 1.4 * TRUNK, *heads])


def test_gradient_accumulation() -> None:
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    found = step(ready(optimizer=optimizer))
    assert_same(arrays(found.trainable_variables), [TRUNK, *HEADS.values()])
    assert_trained(step(found), loop(1, mgda_ub))


@pytest.mark.parametrize("combine", ["mgda", pt.Every(pt.MGDA(), 3)])
def test_an_objective_that_is_not_finite_is_left_out(combine: object) -> None:
    found = step(ready(combine=combine), y={**Y, "a": Y["a"] * np.inf})
    features, own, _ = by_hand(TRUNK, HEADS)
    wanted = [TRUNK - RATE * X.T @ features[1], HEADS["a"], HEADS["b"] - RATE * own[1]]
    assert_trained(found, wanted)
    before = arrays(found.trainable_variables)
    step(found, y={name: y * np.inf for name, y in Y.items()})
    assert_same(before, arrays(found.trainable_variables))


def test_a_gradient_that_breaks_in_the_trunk_is_counted_and_never_applied() -> None:
    class Broken(pt.Model):
        """The square root of zero has no derivative; both losses are fine, and their features."""

        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.mark = dense(3, "trunk"), pt.Features()
            self.a, self.b = dense(1, "a"), dense(1, "b")

        def call(self, x: object) -> dict[str, object]:
            hidden = self.trunk(x)
            first, second = self.mark(ops.sqrt(0.0 * hidden)), self.mark(hidden)
            return {"a": self.a(first), "b": self.b(second)}

    found = ready(Broken, combine=pt.Normalize())
    with pytest.warns(RuntimeWarning, match=r"left out of the step: 'a' \(1 x\)"):
        found.fit(X, Y, batch_size=8, verbose=0)
    features, own, _ = by_hand(TRUNK, HEADS)
    combined = features[1] / np.linalg.norm(features[1])
    wanted = [TRUNK - RATE * X.T @ combined, HEADS["a"], HEADS["b"] - RATE * own[1]]
    assert_trained(found, wanted)


def test_a_gradient_that_breaks_between_two_measurements_skips_the_step() -> None:
    @keras.saving.register_keras_serializable(package=__name__)
    def root(y_true: object, y_pred: object) -> object:
        return ops.mean(ops.sqrt(ops.maximum(y_pred * 0.0 * y_true, 0.0)))

    found = ready(combine=pt.Every(pt.MGDA(), 2))
    step(found)
    found.compile(
        found.optimizer, {"a": root, "b": "mse"}, combine=pt.Every(pt.MGDA(), 2), measure="features"
    )
    before = arrays(found.trainable_variables)
    history = step(found)
    assert_same(before, arrays(history.trainable_variables))


def test_loss_scaling() -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(RATE), initial_scale=float(2.0**127)
    )
    found = step(ready(optimizer=optimizer, loss_weights=dict.fromkeys("ab", 1e6)))
    assert_same(arrays(found.trainable_variables), [TRUNK, *HEADS.values()])
    assert float(ops.convert_to_numpy(optimizer.dynamic_scale)) == 2.0**126
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=64.0)
    assert_trained(step(ready(optimizer=optimizer)), loop(1, mgda_ub))


def test_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), 64.0)
        found = ready(optimizer=optimizer)
    finally:
        keras.config.set_dtype_policy("float32")
    step(found)
    for one, other in zip(arrays(found.trainable_variables), loop(1, mgda_ub), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02)


def test_a_saved_model_goes_on_as_the_original(tmp_path) -> None:
    original = step(ready(combine=pt.Smoothed(pt.MGDA()), optimizer=keras.optimizers.Adam()))
    original.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.compilation.settings.measure == "features"
    for one in (original, loaded):
        step(one)
    assert_same(everything(original), everything(loaded))


def test_predict_evaluate_and_plain_keras_ignore_the_mark() -> None:
    ours, plain = functional(), functional(mark=False)
    plain.set_weights(ours.get_weights())
    for found in (ours, plain):
        found.compile("sgd", {"a": "mse", "b": "mse"}, combine="mgda")
    np.testing.assert_array_equal(ours.predict(X, verbose=0)["a"], plain.predict(X, verbose=0)["a"])
    assert ours.evaluate(X, Y, verbose=0) == plain.evaluate(X, Y, verbose=0)
    assert_same(arrays(step(ours).trainable_variables), arrays(step(plain).trainable_variables))


REFUSED = {
    "word": ({"measure": "feature"}, r"where conflict.*'features'.*Received: 'feature'"),
    "scope": (
        {"combine": pt.PerVariable(pt.MGDA())},
        r"PerVariable needs one Gramian per variable",
    ),
    "network": ({"combine": pt.PerNetwork(pt.MGDA())}, r"needs one Gramian per network"),
    "rows": ({"combine": pt.GradDrop()}, r"GradDrop needs the gradients by the parameters, coord"),
    "chain": ({"combine": pt.Chain(pt.Normalize(), pt.GradDrop())}, r'Use measure="parameters"'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_compile_refuses(name: str) -> None:
    options, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        ready(**options)
    if name == "word":
        with pytest.raises(ValueError, match=words):
            ready(combine="sum", **options)


def test_nothing_marked() -> None:
    unmarked = ready(lambda: functional(mark=False))
    before = everything(unmarked)
    with pytest.raises(ValueError, match=r"no marked tensor in the.*h = pt.Features\(\)\(h\)"):
        unmarked.fit(X, Y, verbose=0)
    assert_same(before, everything(unmarked))
    step(ready(lambda: functional(mark=False), combine="sum"))  # measures nothing


def test_no_output_to_measure_at() -> None:
    class Silent(pt.Model):
        """Nothing but added losses, and integers for an answer."""

        def __init__(self) -> None:
            super().__init__()
            self.trunk = dense(3, "trunk")

        def call(self, x: object) -> object:
            hidden = self.trunk(x)
            self.add_loss(ops.mean(hidden**2))
            return ops.argmax(hidden, axis=-1)

    found = Silent()
    found(X)
    found.compile("sgd", combine="mgda", measure="outputs")
    with pytest.raises(ValueError, match=r"no floating-point tensor among the outputs"):
        found.fit(X, verbose=0)


def test_an_objective_that_goes_around_the_mark() -> None:
    class Around(Subclassed):
        """The second head reads the trunk itself."""

        def call(self, x: object) -> dict[str, object]:
            hidden = self.trunk(x)
            return {"a": self.a(self.mark(hidden)), "b": self.b(hidden)}

    with pytest.raises(ValueError, match=r"'b' reaches shared variables, but by none of the feat"):
        step(ready(Around))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA counts on JAX")
def test_one_backward_pass_through_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import common

    from polytape.engines import engine

    # XLA counts the dearer branch, which is the one for gradients that are not finite.
    monkeypatch.setattr(engine(), "either", lambda _fine, one, _other: one())
    tasks, width, batch = 8, 256, 64
    names = [f"t{index}" for index in range(tasks)]

    def flops(**options: object) -> float:
        inputs = keras.Input((width,))
        hidden = inputs
        for _ in range(3):
            hidden = layers.Dense(width, activation="tanh")(hidden)
        hidden = pt.Features()(hidden)
        found = pt.Model(inputs, {name: layers.Dense(1, name=name)(hidden) for name in names})
        found.compile(keras.optimizers.SGD(0.1), dict.fromkeys(names, "mse"), **options)
        x, y = np.ones((batch, width)), dict.fromkeys(names, np.ones((batch, 1)))
        found.fit(x, y, batch_size=batch, verbose=0)
        return common.compiled(found, (x, y)).cost_analysis()["flops"]

    product = 2 * batch * width * width
    forward, backward = 3 * product, 5 * product  # the inputs need no gradient
    for measure in ("features", "outputs"):
        count = flops(combine=pt.Normalize(), measure=measure)
        assert forward + backward <= count <= 1.15 * (forward + backward)
    assert flops(combine=pt.Normalize()) >= forward + tasks * backward


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="counts hooks of autograd")
def test_how_often_the_trunk_is_differentiated_on_torch() -> None:
    passes: list[int] = []

    class Counting(Subclassed):
        """Counts the gradients that arrive at the trunk."""

        def call(self, x: object) -> dict[str, object]:
            hidden = self.trunk(x)
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: passes.append(1))
            hidden = self.mark(hidden)
            return {"a": self.a(hidden), "b": self.b(hidden)}

    every = pt.Every(pt.MGDA(), 2)
    for options, wanted in (
        ({"measure": "features"}, 1),
        ({"measure": "parameters"}, 2),
        ({"measure": "parameters", "combine": every}, 1),
    ):
        found = step(ready(Counting, **options))
        passes.clear()
        step(found)
        assert len(passes) == wanted
