"""Whatever a user's class adds to the losses is trained, or refused by name.

The pattern of Keras's own guide: a subclass that overrides `compute_loss`. What it returns is
trained as it is, under every method, through `loss=` and `objectives=`, as a `pt.Model` of one's
own and behind `pt.Model.wrap`.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from by_hand import BACKEND, gradients
from small import Array, arrays, assert_same, data, fill

pytestmark = pytest.mark.engine

X, ALL = data(16)
Y = {name: ALL[name] for name in "ab"}
LOSSES = {"a": "mse", "b": "mae"}
CHEAP = "imtlg"  # where any method of gradients will do: quick to compile
EAGER: dict[str, Any] = {"run_eagerly": True} if BACKEND != "jax" else {}


def tensors() -> tuple[Any, dict[str, Any]]:
    """A trunk with two heads, a regulariser and something that adds a loss."""
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(5, "tanh", name="trunk", kernel_regularizer=keras.regularizers.L2(0.02))(
        inputs
    )
    hidden = layers.ActivityRegularization(l2=0.01, dtype="float32")(hidden)
    return inputs, {name: layers.Dense(1, name=name)(hidden) for name in "ab"}


def distance(y_pred: dict[str, Any]) -> Any:
    """The term that users add here."""
    return ops.cast(2.0 * ops.mean((y_pred["a"] - y_pred["b"]) ** 2), "float32")


class Term:
    """`compute_loss` as in Keras's guide."""

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        total = super().compute_loss(x, y, y_pred, sample_weight, training)  # type: ignore[misc]
        return total + distance(y_pred)


class Own(Term, pt.Model):
    """Derived from polytape, used functionally."""


class Plain(Term, keras.Model):
    """Derived from Keras, used functionally."""


class Called:
    """The same network in `call`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = keras.Model(*tensors())

    def call(self, x: Any, training: Any = None) -> Any:
        return self.inner(x, training=training)


class OwnCalled(Called, Term, pt.Model):
    """Derived from polytape, subclassed."""


class PlainCalled(Called, Term, keras.Model):
    """Derived from Keras, subclassed."""


class Distance(layers.Layer):
    """The term in the way that is known to be trained: `add_loss`."""

    def call(self, outputs: Any) -> Any:
        self.add_loss(distance(outputs))
        return outputs


def with_add_loss() -> pt.Model:
    inputs, outputs = tensors()
    return pt.Model(inputs, Distance()(outputs))


WAYS: dict[str, Callable[[], pt.Model]] = {
    "functional": lambda: Own(*tensors()),
    "subclassed": OwnCalled,
    "wrapped": lambda: pt.Model.wrap(Plain(*tensors())),
    "wrapped, subclassed": lambda: pt.Model.wrap(PlainCalled()),
}


def trained(
    found: keras.Model,
    loss: Any = LOSSES,
    steps: int = 2,
    weights: Any = None,
    optimizer: Any = None,
    **options: Any,
) -> tuple[list[Array], list[float]]:
    """Weights after some steps from the same start, and the losses that were logged."""
    optimizer = optimizer or keras.optimizers.SGD(0.1)
    keras.utils.set_random_seed(1)
    found(X[:1])
    fill(found)
    given = {} if "objectives" in options else {"loss": loss, "loss_weights": weights}
    if isinstance(found, pt.Model):
        options = {"verbose": 0, "seed": 3, **options}
    found.compile(optimizer, **{**given, **EAGER, **options})
    logs = [found.train_on_batch(X, Y, return_dict=True)["loss"] for _ in range(steps)]
    return arrays(found.trainable_variables), [float(value) for value in logs]


def assert_close(one: list[Array], other: list[Array], tolerance: float = 2e-5) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance)


def differ(one: list[Array], other: list[Array]) -> bool:
    return any(np.abs(a - b).max() > 1e-3 for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_the_term_is_trained(way: str, combine: str) -> None:
    expected, told = trained(with_add_loss(), combine=combine)
    found, logged = trained(WAYS[way](), combine=combine)
    assert_close(found, expected)
    np.testing.assert_allclose(logged, told, rtol=1e-5)
    without, _ = trained(pt.Model(*tensors()), combine=combine)
    assert differ(found, without)


METHODS = {
    "every gradient": pt.MGDA(),
    "losses": pt.DWA(),
    "constant weights": pt.Chain(pt.Reweight({"a": 0.3}), pt.Sum()),
    "coordinates": pt.GradDrop(),
    "memory": pt.MoCo(),
    "by turns": pt.MConFIG(),
    "now and then": pt.Every(pt.NashMTL(), steps=2),
    "halves": pt.MoDo(),
    "second look": pt.FAMO(),
    "per variable": pt.PerVariable(pt.PCGrad()),
}


@pytest.mark.parametrize("name", METHODS)
def test_under_every_kind_of_method(name: str) -> None:
    expected, _ = trained(with_add_loss(), combine=METHODS[name])
    found, _ = trained(Own(*tensors()), combine=METHODS[name])
    assert_close(found, expected)


OPTIONS: dict[str, dict[str, Any]] = {
    "measured at the outputs": {"combine": CHEAP, "measure": "outputs"},
    "joint": {"combine": CHEAP, "private": "joint"},
    "isolate": {"combine": "dwa", "on_nonfinite": "isolate"},
    "isolate, sum": {"combine": "sum", "on_nonfinite": "isolate"},
    "weights": {"combine": CHEAP, "weights": {"a": 0.3, "b": 2.0}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_under_options_of_compile(name: str) -> None:
    expected, _ = trained(with_add_loss(), **OPTIONS[name])
    found, _ = trained(Own(*tensors()), **OPTIONS[name])
    assert_close(found, expected)


def test_by_hand() -> None:
    """UPGrad of two gradients in closed form, plus the gradient of everything else."""
    found = Own(*tensors())
    after, _ = trained(found, steps=1, combine="upgrad")
    by_hand = Own(*tensors())
    fill(by_hand)
    variables = by_hand.trainable_variables

    def values() -> list[Any]:
        x, y = ops.convert_to_tensor(X), {n: ops.convert_to_tensor(Y[n]) for n in "ab"}
        y_pred = by_hand(x, training=True)
        a = ops.mean((y_pred["a"] - y["a"]) ** 2)
        b = ops.mean(ops.abs(y_pred["b"] - y["b"]))
        kernel = by_hand.get_layer("trunk").kernel
        hidden = ops.tanh(ops.matmul(x, kernel) + by_hand.get_layer("trunk").bias)
        rest = 0.02 * ops.sum(ops.square(kernel))
        rest += 0.01 * ops.sum(ops.square(hidden)) / len(X)
        return [a, b, rest + distance(y_pred)]

    rows = [
        [0.0 if g is None else ops.convert_to_numpy(g).astype("float64") for g in row]
        for row in gradients(values, variables)
    ]
    shared = [v for v, each in enumerate(variables) if "trunk" in each.path]
    first, second = (np.concatenate([row[v].ravel() for v in shared]) for row in rows[:2])
    inner, one, two = first @ second, first @ first, second @ second
    assert inner < 0  # so that the method has something to do
    weights = 1 - inner / one, 1 - inner / two  # each row projected, then added
    for v, variable in enumerate(variables):
        of_losses = rows[0][v] * weights[0] + rows[1][v] * weights[1]
        if v not in shared:
            of_losses = rows[0][v] + rows[1][v]
        expected = ops.convert_to_numpy(variable.value) - 0.1 * (of_losses + rows[2][v])
        np.testing.assert_allclose(after[v], expected, rtol=2e-5, atol=2e-6)


def overriding(change: Callable[..., Any], base: type = pt.Model) -> keras.Model:
    """A functional model whose `compute_loss` is `change(super, x, y, y_pred, sample_weight)`."""

    class Changed(base):  # type: ignore[misc, valid-type]
        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
        ) -> Any:  # without `training`, as before Keras 3.3
            return change(super().compute_loss, x, y, y_pred, sample_weight)

    return Changed(*tensors())


def factor(by: float, combine: Any = CHEAP) -> list[Array]:
    """Weights trained when every loss, and what the layers add, counts `by` times."""
    kernel = keras.regularizers.L2(0.02 * by)
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(5, "tanh", name="trunk", kernel_regularizer=kernel)(inputs)
    hidden = layers.ActivityRegularization(l2=0.01 * by)(hidden)
    outputs = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
    return trained(pt.Model(inputs, outputs), weights={"a": by, "b": by}, combine=combine)[0]


def test_a_total_that_is_scaled() -> None:
    found = overriding(lambda ask, *given: 0.5 * ask(*given))
    assert_close(trained(found, combine=CHEAP)[0], factor(0.5))


def test_losses_evaluated_twice() -> None:
    found = overriding(lambda ask, *given: ask(*given) + 2.0 * ask(*given))
    assert_close(trained(found, combine=CHEAP)[0], factor(3.0))


def test_other_targets_and_predictions() -> None:
    """Losses of what the override hands on, not of what `fit` was given."""

    def swapped(ask: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        moved = {name: value + 1.0 for name, value in y.items()}
        return ask(x, moved, {name: 3.0 * value for name, value in y_pred.items()}, sample_weight)

    found, _ = trained(overriding(swapped), combine=CHEAP)
    losses = {
        "a": lambda t, p: ops.mean((3.0 * p - t - 1.0) ** 2),
        "b": lambda t, p: ops.mean(ops.abs(3.0 * p - t - 1.0)),
    }
    assert_close(found, trained(pt.Model(*tensors()), losses, combine=CHEAP)[0])


def test_half_batches_of_losses_evaluated_twice() -> None:
    found = overriding(lambda ask, *given: ask(*given) + ask(*given))
    assert_close(trained(found, combine=pt.MoDo())[0], factor(2.0, pt.MoDo()))


# ---------------------------------------------------------------- sum is Keras


def totals() -> Iterator[tuple[str, Callable[..., Any]]]:
    yield "a term", lambda ask, x, y, y_pred, w: ask(x, y, y_pred, w) + distance(y_pred)
    yield "half", lambda ask, *given: 0.5 * ask(*given)
    yield "twice", lambda ask, *given: ask(*given) + ask(*given)
    yield "a logarithm", lambda ask, *given: ops.log(ask(*given))
    yield "nothing of Keras's", lambda ask, x, y, y_pred, w: distance(y_pred)


TOTALS = dict(totals())


@pytest.mark.parametrize("base", ["polytape", "wrapped"])
@pytest.mark.parametrize("name", TOTALS)
def test_sum_trains_as_keras(name: str, base: str) -> None:
    expected, told = trained(overriding(TOTALS[name], keras.Model))
    if base == "wrapped":
        found = pt.Model.wrap(overriding(TOTALS[name], keras.Model))
    else:
        found = overriding(TOTALS[name])
    mine, logged = trained(found, combine="sum")
    assert_close(mine, expected, 1e-6)
    np.testing.assert_allclose(logged, told, rtol=1e-6)


@pytest.mark.bits
def test_sum_of_an_override_is_keras_bit_for_bit() -> None:
    """Compiled, with `fit`."""

    def run(cls: type[keras.Model]) -> tuple[list[Array], dict[str, list[float]]]:
        keras.utils.set_random_seed(0)
        found = fill(cls(*tensors()))
        found.compile(keras.optimizers.Adam(0.01), LOSSES)
        history = found.fit(X, Y, batch_size=4, epochs=2, validation_data=(X, Y), verbose=0)
        return arrays(found.trainable_variables), history.history

    expected, told = run(Plain)
    found, logged = run(Own)
    assert logged == told
    assert_same(found, expected)


# ---------------------------------------------------------------- objectives=


def objectives(**trains: Any) -> list[pt.Objective]:
    return [pt.Objective(name, LOSSES[name], trains.get(name)) for name in "ab"]


ROUTED = {"a": ["trunk", "a"], "b": ["b"]}
OF_OBJECTIVES: dict[str, dict[str, Any]] = {
    "sum": {"combine": "sum"},
    "gradients": {"combine": CHEAP},
    "losses": {"combine": "dwa"},
    "weights": {"combine": CHEAP, "objectives": [pt.Objective("a", "mse", weight=0.3)]},
    "sum, routes": {"combine": "sum", "objectives": objectives(**ROUTED)},
    "upgrad, routes": {"combine": CHEAP, "objectives": objectives(**ROUTED)},
    "phases": {"combine": CHEAP, "phases": ["a", "b"]},
    "halves": {"combine": pt.MoDo()},
}


@pytest.mark.parametrize("name", OF_OBJECTIVES)
def test_through_objectives(name: str) -> None:
    options = {"objectives": objectives(), **OF_OBJECTIVES[name]}
    if len(options["objectives"]) == 1:
        options["objectives"] = [*options["objectives"], pt.Objective("b", "mae")]
    expected, told = trained(with_add_loss(), **options)
    found, logged = trained(Own(*tensors()), **options)
    assert_close(found, expected)
    np.testing.assert_allclose(logged, told, rtol=1e-5)
    without, _ = trained(pt.Model(*tensors()), **options)
    assert differ(found, without)


def test_through_objectives_behind_wrap() -> None:
    expected, _ = trained(Own(*tensors()), objectives=objectives(), combine=CHEAP)
    wrapped = pt.Model.wrap(Plain(*tensors()))
    found, _ = trained(wrapped, objectives=objectives(), combine=CHEAP)
    assert_close(found, expected)


def test_objectives_scaled_and_weighted() -> None:
    """A share, a weight of the objective and missing labels, all at once."""
    half = overriding(lambda ask, *given: 0.5 * ask(*given))
    given = [pt.Objective("a", "mse", weight=0.4), pt.Objective("b", "mae", every=2)]
    found, _ = trained(half, objectives=given, combine=CHEAP)
    lighter = [pt.Objective("a", "mse", weight=0.2), pt.Objective("b", "mae", every=2, weight=0.5)]
    kernel = keras.regularizers.L2(0.01)
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(5, "tanh", name="trunk", kernel_regularizer=kernel)(inputs)
    hidden = layers.ActivityRegularization(l2=0.005)(hidden)
    plain = pt.Model(inputs, {name: layers.Dense(1, name=name)(hidden) for name in "ab"})
    assert_close(found, trained(plain, objectives=lighter, combine=CHEAP)[0])


# ---------------------------------------------------------------- whole runs


def run(found: pt.Model, **options: Any) -> tuple[list[Array], dict[str, list[float]]]:
    """A compiled `fit` with validation, and `evaluate` of the same total."""
    keras.utils.set_random_seed(0)
    found(X[:1])
    fill(found)
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine=CHEAP, verbose=0, **options)
    history = found.fit(X, Y, batch_size=8, epochs=2, validation_data=(X, Y), verbose=0).history
    assert history["val_loss"][-1] == pytest.approx(found.evaluate(X, Y, verbose=0)[0], rel=1e-5)
    return arrays(found.trainable_variables), history


def test_compiled_fit_and_the_logged_loss() -> None:
    expected, told = run(with_add_loss())
    for found, logged in map(run, (Own(*tensors()), pt.Model.wrap(PlainCalled()))):
        assert_close(found, expected, 1e-4)
        assert logged.keys() == told.keys()
        for key in ("loss", "val_loss", "a_loss"):
            np.testing.assert_allclose(logged[key], told[key], rtol=1e-4)


def test_under_loss_scaling() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=256.0)
        found, _ = trained(Own(*tensors()), optimizer=scaled, combine=CHEAP)
    finally:
        keras.config.set_dtype_policy(before)
    expected, _ = trained(Own(*tensors()), combine=CHEAP)
    assert_close(found, expected, 2e-2)
    assert differ(found, trained(pt.Model(*tensors()), combine=CHEAP)[0])


def test_a_loss_that_is_not_finite_leaves_the_term_in() -> None:
    """The other objective and the term are trained, the bad one is left out and counted."""
    losses = {"a": "mse", "b": lambda t, p: ops.log(-ops.mean(p**2))}
    found = Own(*tensors())
    mine, _ = trained(found, losses, combine=CHEAP)
    assert found.plan.dropped.describe() == "'b' (1 x)"  # of one batch
    alone = {"a": "mse", "b": lambda t, p: 0.0 * ops.mean(p)}
    expected, _ = trained(with_add_loss(), alone, combine=CHEAP)
    assert_close(mine, expected)


def test_a_term_that_is_not_finite_changes_nothing() -> None:
    bad = overriding(lambda ask, x, y, y_pred, w: ask(x, y, y_pred, w) + ops.log(-distance(y_pred)))
    for combine in (CHEAP, "dwa", "sum"):
        after, _ = trained(bad, combine=combine)
        start = arrays(fill(overriding(lambda ask, *given: ask(*given))).trainable_variables)
        assert_close(after, start, 0.0)
        assert bad.plan.dropped.total() > 0


# ---------------------------------------------------------------- refused by name


def full(y_pred: Any, y: Any) -> Any:
    return sum(ops.mean((y_pred[name] - ops.convert_to_tensor(y[name])) ** 2) for name in "ab")


class Full(pt.Model):
    """A total of its own."""

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return full(y_pred, y)


NO_LOSSES = (
    r"Full overrides compute_loss, and its total is one number: UPGrad finds no losses in it to "
    r'combine, and would do what "sum" does. Give the losses to compile\(loss=...\)'
)


def test_one_total_has_nothing_to_combine() -> None:
    """Without `loss=` at once, with it as soon as it is seen that nobody asks for it."""
    with pytest.raises(ValueError, match=NO_LOSSES):
        Full(*tensors()).compile("sgd", combine="upgrad")
    found = Full(*tensors())
    before = arrays(found.variables)
    found.compile("sgd", LOSSES, combine="upgrad", **EAGER)
    with pytest.raises(ValueError, match=NO_LOSSES):
        found.fit(X, Y, verbose=0)
    assert_same(arrays(found.variables)[: len(before)], before)
    found.compile("sgd", objectives=objectives(), **EAGER, verbose=0)
    with pytest.raises(ValueError, match="Full overrides compute_loss"):
        found.fit(X, Y, verbose=0)


def test_one_total_may_be_clipped() -> None:
    clipped = pt.GlobalClip(pt.Sum(), 0.01)
    after, _ = trained(Full(*tensors()), None, steps=1, combine=clipped)
    start = arrays(fill(Full(*tensors())).trainable_variables)
    moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(after, start, strict=True)))
    assert moved <= 0.1 * 0.01 * (1 + 1e-3)
    assert moved > 0


def test_losses_that_the_total_leaves_out() -> None:
    found = overriding(
        lambda ask, x, y, y_pred, w: 0.0 * float(ask(x, y, y_pred, w) is None) + (distance(y_pred))
    )
    found.compile("sgd", LOSSES, combine="upgrad", **EAGER)
    with pytest.raises(ValueError, match=r"Changed.compute_loss evaluates the losses .* of 'a'"):
        found.fit(X, Y, verbose=0)


def test_totals_that_are_no_scalars() -> None:
    for change, text in (
        (lambda ask, x, y, y_pred, w: (y_pred["a"] - y["a"]) ** 2, "Received shape: .16, 1."),
        (lambda ask, *given: None, "is not a tensor. Received: None"),
    ):
        found = overriding(change)
        found.compile("sgd", LOSSES, **EAGER)
        with pytest.raises((TypeError, ValueError), match=f"Changed.compute_loss.*{text}"):
            found.fit(X, Y, batch_size=16, verbose=0)


def test_objectives_evaluated_twice() -> None:
    found = overriding(lambda ask, *given: ask(*given) + ask(*given))
    found.compile("sgd", objectives=objectives(), **EAGER, verbose=0)
    with pytest.raises(ValueError, match=r"calls super\(\).compute_loss\(...\) 2 times"):
        found.fit(X, Y, verbose=0)


def test_single_samples_of_an_override() -> None:
    with pytest.raises(ValueError, match="NTK compares the losses of single samples, and Term"):
        Own(*tensors()).compile("sgd", LOSSES, combine=pt.NTK())


# ---------------------------------------------------------------- one objective


def one(**options: Any) -> pt.Model:
    inputs, outputs = tensors()
    found = pt.Model(inputs, outputs["a"])
    found.compile("sgd", "mse", **options)
    return found


def test_one_objective_has_nothing_to_combine() -> None:
    with pytest.warns(UserWarning, match=r"There is one objective, 'loss', so UPGrad has nothing"):
        found = one(combine="upgrad", **EAGER)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found.train_on_batch(X, Y["a"])  # said once
        one(combine="sum")
        one(combine=pt.Chain(pt.Normalize(), pt.Clip(1.0), pt.Sum()))
        one(combine=pt.GlobalClip(pt.Mean(), 1.0))
        pt.Model(*tensors()).compile("sgd", LOSSES, combine="upgrad")
    with pytest.warns(UserWarning, match="GlobalClip has nothing to combine"):
        one(combine=pt.GlobalClip(pt.PCGrad(), 1.0))


# ---------------------------------------------------------------- train_step and its fellows


class Bypassed(pt.Model):
    """Makes its step itself, and does not say anything of the losses."""

    def train_step(self, *args: Any) -> Any:
        return keras.Model.test_step(self, *args)  # enough of a step for here


class Conditional(pt.Model):
    """Looks as if it asked."""

    asks = False

    def train_step(self, *args: Any) -> Any:
        if self.asks:
            return super().train_step(*args)
        state = args[0] if BACKEND == "jax" else None
        logs = {"loss": ops.zeros(())}
        return (logs, state) if BACKEND == "jax" else logs


class Asking(pt.Model):
    """Looks at the batch and hands it on."""

    seen = 0

    def train_step(self, *args: Any) -> Any:
        self.seen += 1
        return super().train_step(*args)


def test_a_step_of_ones_own() -> None:
    text = r"Bypassed.train_step does not call super\(\).train_step\(...\), which is where losses"
    for options in ({"combine": "upgrad", "loss": LOSSES}, {"objectives": objectives()}):
        with pytest.raises(ValueError, match=text):
            Bypassed(*tensors()).compile("sgd", **options)
    Bypassed(*tensors()).compile("sgd", LOSSES)  # plain Keras
    found = Conditional(*tensors())
    found.compile("sgd", LOSSES, combine="upgrad", **EAGER)
    with pytest.raises(RuntimeError, match=r"Conditional.train_step does not call"):
        found.fit(X, Y, verbose=0)
    with pytest.raises(RuntimeError, match=r"Conditional.train_step does not call"):
        found.train_on_batch(X, Y)
    asking = Asking(*tensors())
    after, _ = trained(asking, combine="upgrad")
    assert asking.seen > 0
    assert_close(after, trained(pt.Model(*tensors()), combine="upgrad")[0], 0.0)


class Watched:
    """Measures and evaluates in its own way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gap = keras.metrics.Mean(name="gap")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        found = super().compute_metrics(x, y, y_pred, sample_weight)  # type: ignore[misc]
        self.gap.update_state(distance(y_pred))
        found["gap"] = self.gap.result()
        return found


class WatchedOwn(Watched, pt.Model):
    pass


class WatchedPlain(Watched, keras.Model):
    pass


def fitted(found: keras.Model, **options: Any) -> tuple[list[Array], dict[str, list[float]]]:
    keras.utils.set_random_seed(0)
    found(X[:1])
    fill(found)
    found.compile(keras.optimizers.SGD(0.1), LOSSES, **options)
    history = found.fit(X, Y, batch_size=8, epochs=2, validation_data=(X, Y), verbose=0).history
    return arrays(found.trainable_variables), history


def assert_as_keras(plain: Callable[[], keras.Model], *mine: keras.Model) -> dict[str, Any]:
    expected, told = fitted(plain())
    for found in mine:
        after, logged = fitted(found, combine="sum")
        assert_close(after, expected, 1e-5)
        assert logged.keys() == told.keys()
        for key, values in told.items():
            np.testing.assert_allclose(logged[key], values, rtol=1e-5, err_msg=key)
    return told


def test_metrics_of_ones_own() -> None:
    told = assert_as_keras(
        lambda: WatchedPlain(*tensors()),
        WatchedOwn(*tensors()),
        pt.Model.wrap(WatchedPlain(*tensors())),
    )
    assert told["gap"][0] > 0
    _, logged = fitted(pt.Model.wrap(WatchedPlain(*tensors())), combine=CHEAP)
    assert logged["gap"][0] > 0
    assert logged["val_gap"][0] > 0


class Guide:
    """The example of Keras's own documentation: a total, its mean and `metrics` of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        total = full(y_pred, y) + sum(self.losses)  # type: ignore[attr-defined]
        self.loss_tracker.update_state(total)
        return total

    def reset_metrics(self) -> None:
        self.loss_tracker.reset_state()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_tracker]


class GuideOwn(Guide, pt.Model):
    pass


class GuidePlain(Guide, keras.Model):
    pass


def test_the_example_of_keras() -> None:
    assert_as_keras(
        lambda: GuidePlain(*tensors()),
        GuideOwn(*tensors()),
        pt.Model.wrap(GuidePlain(*tensors())),
    )


class Own2(pt.Model):
    """A `test_step` and a `compile` of its own."""

    def compile(self, *args: Any, power: float = 1.0, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        self.power = power

    def test_step(self, *args: Any) -> Any:
        found = super().test_step(*args)
        logs = found[0] if BACKEND == "jax" else found
        logs["power"] = ops.convert_to_tensor(self.power)
        return found


def test_steps_of_evaluation_and_compile() -> None:
    found = Own2(*tensors())
    found.compile("sgd", LOSSES, combine=CHEAP, power=3.0)
    told = found.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert told["val_power"] == [3.0]


@pytest.mark.parametrize("name", ["train_step", "test_step", "predict_step", "fit"])
def test_wrap_refuses_what_it_cannot_ask(name: str) -> None:
    kind = type("Stepping", (keras.Model,), {name: lambda self, *args: None})
    with pytest.raises(TypeError, match=rf"Stepping overrides `{name}`, which pt.Model.wrap would"):
        pt.Model.wrap(kind(*tensors()))


class Sampling(keras.Sequential):
    """A Sequential of one's own."""

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return super().compute_loss(x, y, y_pred, sample_weight, training) + ops.mean(y_pred**2)


def test_a_sequential_of_ones_own_behind_wrap() -> None:
    def make() -> keras.Model:
        return Sampling([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1)])

    def run(found: keras.Model) -> list[Array]:
        fill(found).compile(keras.optimizers.SGD(0.1), "mse", **EAGER)
        found.train_on_batch(X, Y["a"])
        return arrays(found.trainable_variables)

    assert_close(run(pt.Model.wrap(make())), run(make()), 1e-6)


def of_call(kind: str) -> keras.Model:
    """Subclassed Keras models by the signature of `call`."""

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embed = layers.Embedding(5, 6, mask_zero=True)
            self.drop, self.norm = layers.Dropout(0.5, seed=3), layers.BatchNormalization()
            self.pool = layers.GlobalAveragePooling1D()
            self.heads = {name: layers.Dense(1, name=name) for name in "ab"}
            self.heads["a"].trainable = kind != "frozen"
            self.wide = 2.0

        def run(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            codes = self.embed(ops.cast(ops.abs(inputs * 2), "int32"))
            hidden = self.norm(self.drop(self.pool(codes), training=training), training=training)
            self.add_loss(0.1 * ops.mean(hidden**2))
            return {name: head(hidden) for name, head in self.heads.items()}

    calls: dict[str, Any] = {
        "training": lambda self, inputs, training=None: self.run(inputs, training),
        "mask": lambda self, x, training=False, mask=None: self.run(x, training, mask),
        "neither": lambda self, inputs: self.run(inputs),
        "more": lambda self, inputs, training=None, wide=None: self.run(inputs, training),
        "any": lambda self, inputs, **kwargs: self.run(inputs, **kwargs),
    }
    calls["frozen"] = calls["training"]
    return type("Net", (Net,), {"call": calls[kind]})()


@pytest.mark.parametrize("kind", ["training", "mask", "neither", "more", "any", "frozen"])
def test_signatures_of_call_behind_wrap(kind: str) -> None:
    """In training mode where Keras trains in that mode, with masks and what layers add."""

    def run(found: keras.Model, **options: Any) -> list[Array]:
        keras.utils.set_random_seed(1)
        found(X[:1])
        fill(found)
        found.compile(keras.optimizers.SGD(0.1), LOSSES, **EAGER, **options)
        found.train_on_batch(X, Y)
        return arrays(found.trainable_variables)

    expected = run(of_call(kind))
    assert_close(run(pt.Model.wrap(of_call(kind)), combine="sum"), expected, 1e-6)
    assert len(run(pt.Model.wrap(of_call(kind)), combine=CHEAP)) == len(expected)


def test_networks_run_in_training_mode() -> None:
    """Dropout and BatchNormalization in the networks of a routing table."""
    seen: list[bool] = []

    class Mode(layers.Layer):
        def call(self, x: Any, training: Any = None) -> Any:
            seen.append(bool(training))
            return x

    network = keras.Sequential([keras.Input((4,)), Mode(), layers.BatchNormalization()])
    networks = {"a": network, "b": layers.Dense(1)}
    found = pt.Model(networks=networks, forward=lambda nets, x: {"b": nets["b"](nets["a"](x))})
    found(X[:1])
    found.compile("sgd", objectives=[pt.Objective("b", "mse")], verbose=0, **EAGER)
    before = arrays(network.non_trainable_variables)
    seen.clear()
    found.fit(X, {"b": Y["b"]}, verbose=0)
    assert seen[-1]
    after = arrays(network.non_trainable_variables)
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    seen.clear()
    found.predict(X, verbose=0)
    assert not any(seen)


def test_frozen_after_compile_is_refused() -> None:
    found = pt.Model.wrap(PlainCalled())
    trained(found, combine=CHEAP, steps=1)
    found.network.inner.get_layer("a").trainable = False
    with pytest.raises(ValueError, match="had 6 trainable variables when it was compiled"):
        found.train_on_batch(X, Y)


class Learned(keras.losses.Loss):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.width = keras.Variable(1.0, name="width")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean((y_true - y_pred) ** 2, axis=-1) * self.width


def test_a_loss_with_variables_of_its_own() -> None:
    for options in (
        {"loss": {"a": Learned(), "b": "mse"}},
        {"objectives": [pt.Objective("a", Learned()), pt.Objective("b", "mse")], "verbose": 0},
    ):
        found = pt.Model(*tensors())
        with pytest.warns(UserWarning, match=r"The loss Learned holds '.*width', which is train"):
            found.compile("sgd", **options)


def test_a_frozen_layer_between_trained_ones() -> None:
    """PyTorch wants its weights untouched between the passes forward and backward."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, trainable=False, name="fixed")(layers.Dense(5, "tanh")(inputs))
    found = pt.Model(inputs, {name: layers.Dense(1, name=name)(hidden) for name in "ab"})
    before = arrays(found.get_layer("fixed").variables)
    trained(found, combine=CHEAP)
    assert_same(arrays(found.get_layer("fixed").variables), before)


def test_a_compile_before_does_not_count() -> None:
    """What a wrapped model was compiled with, and what the same model was compiled with before."""
    plain = Plain(*tensors())
    plain.compile("adam", {"a": "huber", "b": "huber"}, metrics={"a": ["mae"]})
    plain.train_on_batch(X, Y)
    found, _ = trained(pt.Model.wrap(plain), combine=CHEAP)
    assert_close(found, trained(Own(*tensors()), combine=CHEAP)[0])
    again = Own(*tensors())
    trained(again, {"a": "huber", "b": "huber"}, combine="pcgrad")
    assert_close(trained(again, combine=CHEAP)[0], found)
