"""Whatever is not finite, loss, gradient, weight, bound or state, stays outside and is told."""

import csv
import dataclasses
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.catalogue import catalogue
from polytape.contract.rules import Integer, Range, rules_of
from polytape.testing.trials import Trial
from small import LOSSES, Array, arrays, assert_same, data, everything, model

pytestmark = pytest.mark.engine

X, Y = data(16)
BAD = (math.nan, math.inf, -math.inf)


@keras.saving.register_keras_serializable(package=__name__)
class Blip(keras.optimizers.schedules.LearningRateSchedule):
    """One, but in one step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def __call__(self, step: Any) -> Any:
        return ops.where(ops.equal(ops.cast(step, "int32"), self.step), self.value, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value}


def objectives(weight: Any = 1.0) -> list[pt.Objective]:
    return [
        pt.Objective(name, LOSSES[name], weight=weight if name == "a" else 1.0) for name in "abc"
    ]


def compiled(
    combine: Any = "upgrad", weight: Any = 1.0, eager: bool = True, **options: Any
) -> pt.Model:
    found = model()
    options.setdefault("optimizer", keras.optimizers.Adam(0.01))
    found.compile(
        objectives=objectives(weight), combine=combine, verbose=0, run_eagerly=eager, **options
    )
    return found


def fit(found: pt.Model, y: Any = Y, x: Any = X, **options: Any) -> dict[str, list[float]]:
    options = {"batch_size": 16, "verbose": 0, "shuffle": False, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return found.fit(x, y, **options).history


def all_finite(found: pt.Model) -> bool:
    return all(np.isfinite(value).all() for value in everything(found))


METHODS = {
    "sum": "sum",
    "linear": "dwa",
    "learned": pt.UW(),
    "gramian": "upgrad",
    "chain": pt.Chain(pt.Normalize(), pt.PCGrad()),
    "remembering": pt.MoCo(),
    "rows": "graddrop",
    "blocks": pt.Smoothed(pt.PerVariable(pt.MGDA())),
    "now and then": pt.Every(pt.IMTLG(), 2),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", METHODS)
def test_a_weight_of_one_step(name: str, bad: float) -> None:
    """From a schedule: that step leaves the objective out, the next go on."""
    found = compiled(METHODS[name], Blip(1, bad))
    fit(found)
    history = fit(found)
    assert history["dropped"][0] >= 1
    assert all_finite(found)
    before = arrays(found.trainable_variables)
    assert fit(found).get("dropped", [0]) == [0]
    assert all_finite(found)
    assert not np.array_equal(before[0], arrays(found.trainable_variables)[0])


@pytest.mark.parametrize("way", ["drop", "isolate", "skip", "raise"])
@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_a_weight_that_is_a_variable(combine: str, way: str) -> None:
    weight = keras.Variable(1.0)
    found = compiled(combine, weight, on_nonfinite=way)
    fit(found)
    before = everything(found)
    weight.assign(math.nan)
    if way == "raise":
        with pytest.raises(FloatingPointError, match=r"'a' \(1 x\).*The weight of 'a' is nan\."):
            fit(found)
    else:
        with pytest.warns(RuntimeWarning, match=r"'a' \(1 x\).*The weight of 'a' is nan\."):
            found.fit(X, Y, batch_size=16, verbose=0)
    weight.assign(1.0)
    fit(found)
    assert all_finite(found)
    if way == "skip":
        again = compiled(combine, weight, on_nonfinite=way)
        fit(again), fit(again)
        for one, other in zip(found.trainable_variables, again.trainable_variables, strict=True):
            np.testing.assert_allclose(*arrays([one, other]), rtol=1e-6)
    assert len(before) == len(everything(found))


def test_the_others_go_on_as_if_it_did_not_exist() -> None:
    found, without = compiled(weight=Blip(0, math.nan)), model()
    without.compile(
        keras.optimizers.Adam(0.01),
        {name: LOSSES[name] for name in "bc"},
        combine="upgrad",
        run_eagerly=True,
    )
    fit(found), fit(without, {name: Y[name] for name in "bc"})
    for one, other in zip(found.trainable_variables, without.trainable_variables, strict=True):
        np.testing.assert_allclose(*arrays([one, other]), rtol=1e-4, atol=1e-6)


def test_compiled() -> None:
    found = compiled(weight=Blip(1, math.inf), eager=False)
    assert fit(found, epochs=3)["dropped"] == [0, 1, 0]  # as long as the other histories
    assert all_finite(found)


@dataclasses.dataclass(frozen=True)
class Faulty(pt.Method):
    """Sums, but in step 1 its weights or its state are what they must not be."""

    what: str = "weights"

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Any:
        return {"sum": np.zeros((*blocks, len(names)), "float32")}

    def weigh(self, evidence: Any, state: Any) -> tuple[Any, Any]:
        bad = ops.equal(ops.cast(evidence.step, "int32"), 1)
        poison, ones = ops.where(bad, math.nan, 0.0), ops.ones_like(evidence.losses)
        of = {"weights": ones, "one weight": np.float32([0, 1, 0]), "state": 0 * ones}[self.what]
        weights = ops.where(ops.convert_to_tensor(of) > 0, ones + poison, ones)
        more = ones + poison if self.what == "state" else ones
        return weights, {"sum": state["sum"] + more}


@pytest.mark.parametrize("way", ["drop", "isolate", "skip", "raise"])
@pytest.mark.parametrize("needs", ["gramian", "losses"])
@pytest.mark.parametrize("what", ["weights", "one weight", "state"])
def test_a_method_that_fails(
    what: str, needs: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a method returns that is not finite goes no further: the step is as if not made."""
    monkeypatch.setattr(Faulty, "needs", needs)
    found = compiled(Faulty(what), on_nonfinite=way)
    fit(found)
    states = found.plan.aggregator.state.variables
    guarded = [*found.trainable_variables, *found.optimizer.variables, *states]
    before, count = arrays(guarded), 3
    if what == "one weight":  # the others go on, where each has a gradient of its own
        count = 1 if needs == "gramian" or way == "isolate" else 3
    if way == "raise":
        with pytest.raises(FloatingPointError, match="weight is not finite"):
            fit(found)
    else:
        assert fit(found)["dropped"] == [count]
    if count == 3 or way == "skip":
        assert_same(before, arrays(guarded))
    else:
        assert not np.array_equal(before[0], arrays(guarded)[0])
    assert all_finite(found)
    assert fit(found).get("dropped", [0]) == [0]
    assert all_finite(found)


@pytest.mark.parametrize("private", ["own", "weighted", "joint"])
def test_finite_weights_of_finite_rows_that_overflow(private: str) -> None:
    found = compiled(
        pt.Chain(pt.Reweight({"a": 1e30}), pt.Reweight({"a": 1e8}), pt.UPGrad()), private=private
    )
    fit(found)
    assert all_finite(found)
    found = compiled(pt.Chain(pt.UPGrad(), pt.Reweight({"a": 3e38})), private=private)
    assert fit(found)["dropped"][0] >= 1
    assert all_finite(found)


@pytest.mark.parametrize("way", ["drop", "isolate"])
@pytest.mark.parametrize("name", ["sum", "linear", "gramian", "now and then"])
def test_gradients_whose_square_is_infinite(name: str, way: str) -> None:
    """Adam would keep that square, and train the variable no more."""
    if name == "sum" and keras.backend.backend() == "tensorflow":
        pytest.skip('the last bits of "sum" are Keras\'s there, and so is this: see engines/')
    found = compiled(METHODS[name], Blip(1, 1e25), on_nonfinite=way)
    fit(found)
    assert fit(found)["dropped"][0] >= 1
    assert all_finite(found)


def losses(weight: float, variables: list[Any]) -> Callable[[], dict[str, Any]]:
    shared, own = variables
    return lambda: {
        "a": weight * ops.sum(shared**2) + ops.sum(own),
        "b": ops.sum(shared * np.float32([1.0, -1.0])),
    }


@pytest.mark.parametrize("bad", BAD)
def test_in_a_loop(bad: float) -> None:
    """`pt.Combiner` has nobody behind it that could skip the step: its update is finite or zero."""
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([1.0])]
    combiner = pt.Combiner(pt.Chain(pt.Reweight({"a": Blip(1, bad)}), pt.MoCo()))
    for step in range(3):
        update = arrays_of(combiner(pt.gradients(losses(1.0, variables), variables)))
        assert all(np.isfinite(part).all() for part in update)
        if step == 1:
            assert not update[1].any(), "it is the objective's own"
    assert all(np.isfinite(value).all() for value in arrays(combiner.variables))
    update = arrays_of(combiner(pt.gradients(losses(bad, variables), variables)))
    assert all(np.isfinite(part).all() for part in update)


def arrays_of(tensors: list[Any]) -> list[Array]:
    return [np.array(ops.convert_to_numpy(tensor)) for tensor in tensors]


# ------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("wrap", [pt.Clip, lambda norm: pt.GlobalClip(pt.Sum(), norm)])
def test_an_infinite_bound_clips_nothing(wrap: Callable[[float], pt.Method]) -> None:
    weights, _ = pt.weigh(wrap(math.inf), [[1e36, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(weights), [1.0, 1.0])


RULES = [
    pytest.param(cls, name, rule, id=f"{cls.__name__}-{name}")
    for cls in catalogue().values()
    for name, rule in rules_of(cls).items()
    if isinstance(rule, Range) and not isinstance(rule, Integer)
]
EXTREMES = (0.0, 1e-30, 1e30, math.inf)


@pytest.mark.parametrize(("cls", "name", "rule"), RULES)
def test_a_hyper_parameter_at_its_ends(cls: type[pt.Method], name: str, rule: Range) -> None:
    """A finite answer, or refused by the rule, whose brackets say which."""
    inner = {"inner": pt.UPGrad()} if "inner" in cls.__dataclass_fields__ else {}
    for value in (*EXTREMES, rule.low, rule.high, 1 - 1e-9):
        if not rule.admits(value):
            with pytest.raises(ValueError, match=re.escape(f"`{name}` must be {rule}.")):
                cls(**inner, **{name: value})
            continue
        trial = Trial(cls(**inner, **{name: value}))
        rows, state = np.float32([[1.0, 0.5, 0.1], [-0.8, 0.3, 0.2], [0.1, 1.0, -1.0]]), None
        state = trial.start((3,), 3)
        for losses in ([1.0, 2.0, 0.5], [0.5, 2.5, 0.1]):
            answer = trial.answer(rows, np.array(losses), np.ones(3, bool), state)
            state = answer.state
            if value != 1e30:  # times a hundred that need not be a number of float32
                assert np.isfinite(answer.weights).all(), f"{name}={value}: {answer.weights}"
            assert not np.isnan(answer.weights).any(), f"{name}={value}: {answer.weights}"
            for leaf in keras.tree.flatten(state):
                assert np.isfinite(ops.convert_to_numpy(leaf)).all(), f"{name}={value}: {state}"


@pytest.mark.parametrize("sizes", [(1e10, 1e-10), (1e-10, 1e10), (1e12, 1e12), (1e-12, 1e-12)])
@pytest.mark.parametrize(
    "method",
    [
        pt.MMPareto(),
        pt.Smoothed(pt.UPGrad()),
        *(pt.FairGrad(alpha=alpha) for alpha in (0.01, 0.1, 100.0, 1e30)),
    ],
    ids=str,
)
def test_gradients_of_all_sizes(method: pt.Method, sizes: tuple[float, float]) -> None:
    rows = np.array([[1.0, 0.2], [-0.9, 0.4]]) * np.array(sizes)[:, None]
    weights, _ = pt.weigh(method, np.float32(rows @ rows.T))
    weights = ops.convert_to_numpy(weights)
    assert np.isfinite(weights).all()
    assert (weights > 0).all()


@pytest.mark.parametrize("factor", [1e37, 1e-37])
def test_smoothed_in_a_network(factor: float) -> None:
    found = compiled(pt.Chain(pt.Reweight({"a": factor}), pt.Smoothed(pt.UPGrad())))
    fit(found, epochs=3)
    assert all_finite(found)


def test_famo_at_the_largest_rate_and_decay() -> None:
    """A state that pulls itself back by 1e6 times its size, 1e6 a step, stays a number."""
    method, rng = pt.FAMO(rate=1e6, decay=1e6), np.random.default_rng(0)
    state = keras.tree.map_structure(ops.convert_to_tensor, method.init(("a", "b", "c")))
    active = ops.convert_to_tensor(np.ones(3, bool))
    for _ in range(200):
        before, after = (np.float32(10 ** rng.uniform(-37, 37, 3)) for _ in range(2))
        looks = ops.convert_to_tensor(before), ops.convert_to_tensor(after)
        state = method.review(*looks, active, state)
    for leaf in keras.tree.flatten(state):
        assert np.isfinite(ops.convert_to_numpy(leaf)).all()


def test_numbers_alone() -> None:
    with pytest.raises(ValueError, match="not finite"):
        pt.weigh("gls", losses=[math.inf, 1.0])
    with pytest.raises(FloatingPointError, match="EncodecBalancer came to weights"):
        pt.weigh(pt.EncodecBalancer(norm=1e37), [[1e-6, 0.0], [0.0, 1.0]])


# ------------------------------------------------------------------------------------ logs


def poisoned(batches: set[int], of: str = "a") -> dict[str, Array]:
    """The targets of four batches, some of them infinite: no label is NaN, and means something."""
    found = {name: np.concatenate([target] * 4) for name, target in Y.items()}
    for batch in batches:
        found[of][16 * batch : 16 * (batch + 1)] = math.inf
    return found


WAYS = ("loss", "objectives")


def four_batches(
    way: str, combine: str, batches: set[int], **options: Any
) -> dict[str, list[float]]:
    if way == "loss":
        found = model()
        found.compile(keras.optimizers.SGD(0.0), LOSSES, combine=combine, run_eagerly=True)
    else:
        found = compiled(combine, optimizer=keras.optimizers.SGD(0.0))
    return fit(found, poisoned(batches), np.concatenate([X] * 4))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("combine", ["sum", "upgrad"])
@pytest.mark.parametrize("batches", [{0}, {1}, {0, 1, 3}])
def test_means_over_the_good_steps(way: str, combine: str, batches: set[int]) -> None:
    """The losses that early stopping and best checkpoints read, and how many steps were bad."""
    told, right = four_batches(way, combine, batches), four_batches(way, combine, set())
    for name in ("loss", "a_loss", "b_loss", "c_loss"):
        np.testing.assert_allclose(told[name], right[name], rtol=1e-5)
    assert told["dropped"] == [len(batches)]


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_without_a_good_step_has_no_mean(way: str) -> None:
    told = four_batches(way, "sum", {0, 1, 2, 3})
    assert math.isnan(told["loss"][0])
    assert math.isnan(told["a_loss"][0])
    assert math.isfinite(told["b_loss"][0])


@pytest.mark.parametrize("wrapped", [False, True], ids=["list", "CallbackList"])
@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_a_csv_file_has_the_column_whenever_it_happens(
    combine: str, wrapped: bool, tmp_path: Path
) -> None:
    """CSVLogger keeps the columns of the first epoch."""
    found = compiled(combine, Blip(1, math.nan))
    given: Any = [keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    if wrapped:
        given = keras.callbacks.CallbackList(given, model=found, epochs=3, add_history=True)
    history = fit(found, epochs=3, callbacks=given)
    with (tmp_path / "log.csv").open() as file:
        written = [float(row["dropped"]) for row in csv.DictReader(file)]
    assert written == history["dropped"] == [0, 1, 0]


def test_without_a_reader_the_column_comes_with_the_first_one() -> None:
    """Until then the logs are Keras's own."""
    found, seen = compiled("sum", Blip(1, math.nan)), []
    fit(
        found,
        epochs=2,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: seen.append("dropped" in logs)
            )
        ],
    )
    assert seen == [False, True]
    watching = keras.callbacks.EarlyStopping("dropped", patience=0, mode="min")
    history = fit(compiled("sum", Blip(1, math.nan)), epochs=4, callbacks=[watching])
    assert history["dropped"] == [0, 1]


def test_validation_shows_what_is_there() -> None:
    found = compiled("sum")
    bad = {**Y, "a": np.full_like(Y["a"], math.inf)}
    history = fit(found, validation_data=(X, bad))
    assert not math.isfinite(history["val_loss"][0])
    assert math.isfinite(history["loss"][0])


# ------------------------------------------------------------------------------------ other doors


def test_metrics_that_a_method_heeds() -> None:
    found = compiled(pt.DTP({"a": "a_loss"}), Blip(0, math.nan))
    fit(found)  # a loss is no share, but this one is below one
    for metric in (math.nan, 0.5, math.nan):
        found.plan.aggregator.on_epoch_metrics({"a_loss": metric})
    assert all_finite(found)


def test_a_second_look_that_is_not_finite() -> None:
    found = compiled(pt.FAMO(), optimizer=keras.optimizers.SGD(1e25))
    fit(found)  # the losses behind the step overflow
    assert np.isfinite(
        np.concatenate([v.ravel() for v in arrays(found.plan.aggregator.state.variables)])
    ).all()


@pytest.mark.parametrize("door", ["inputs", "sample_weight", "regularizer"])
@pytest.mark.parametrize("combine", ["sum", "upgrad", pt.MoCo()])
def test_doors(door: str, combine: Any) -> None:
    found = model(busy=True)
    if door == "regularizer":
        found.get_layer("trunk").kernel.regularizer = lambda v: ops.log(ops.sum(v * 0.0) - 1.0)
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine=combine, run_eagerly=True)
    x = np.full_like(X, math.inf) if door == "inputs" else X
    weight = dict.fromkeys("abc", np.full(16, math.nan)) if door == "sample_weight" else None
    history = fit(found, x=x, sample_weight=weight)
    assert history["dropped"] == [3]
    assert all_finite(found)


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_accumulated_gradients(combine: str) -> None:
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    found = compiled(combine, Blip(1, math.nan), optimizer=optimizer)
    fit(found, epochs=4)
    assert all_finite(found)


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_loss_scaling(combine: str) -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    found = compiled(combine, Blip(1, math.inf), optimizer=optimizer)
    fit(found, epochs=3)
    assert all_finite(found)


@pytest.mark.parametrize("combine", ["sum", "dwa", "upgrad", pt.MoCo()], ids=str)
def test_scaled_gradients_whose_square_is_infinite_are_an_overflow(combine: Any) -> None:
    """Finite numbers above 1.8e19: Adam could not divide by them. The scale is halved for them."""
    inner = keras.optimizers.Adam(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**70)
    found = compiled(combine, optimizer=optimizer)
    fit(found)
    before = arrays([*found.trainable_variables, *inner.variables])
    scales = [float(ops.convert_to_numpy(optimizer.dynamic_scale))]
    assert scales[0] == 2.0**69, "the first step was one, too"
    for _ in range(3):
        assert "dropped" not in fit(found), "an overflow is the optimizer's, not an objective's"
        scales.append(float(ops.convert_to_numpy(optimizer.dynamic_scale)))
        assert_same(before, arrays([*found.trainable_variables, *inner.variables]))
    assert scales == [2.0**69, 2.0**68, 2.0**67, 2.0**66]
    fit(found, epochs=15)
    assert int(inner.iterations) >= 3, "and then it goes on"
    assert all_finite(found)


@pytest.mark.parametrize("where", ["network", "method", "optimizer"])
def test_a_file_with_nan_inside(where: str, tmp_path: Path) -> None:
    """It loads, as in Keras, to be looked at. Whoever trains on is told which variables it is."""
    found = compiled(pt.Smoothed(pt.UPGrad()))
    fit(found)
    states = found.plan.aggregator.state.variables
    variable = {
        "network": found.get_layer("trunk").kernel,
        "method": next(v for v in states if "weights" in v.path and "reweight" not in v.path),
        "optimizer": next(v for v in found.optimizer.variables if "kernel_momentum" in v.path),
    }[where]
    variable.assign(np.full(variable.shape, math.nan, variable.dtype))
    found.save(tmp_path / "bad.keras")
    again = keras.saving.load_model(tmp_path / "bad.keras")
    last = variable.path.rpartition("/")[2]
    named = rf"Not finite themselves are the variables .*{last}.*: load sound values"
    with pytest.warns(RuntimeWarning, match=named):
        again.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    if where == "method":  # nothing of it reached the network
        assert all(np.isfinite(value).all() for value in arrays(again.trainable_variables))


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63, 2**64 - 1, -(2**100), np.uint64(2**64 - 1)])
def test_extreme_seeds(seed: int, tmp_path: Path) -> None:
    """Any whole number is a seed, and the same one after a file."""
    found = compiled(pt.PCGrad(), seed=seed)
    fit(found)
    found.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    fit(found), fit(again)
    assert_same(arrays(found.trainable_variables), arrays(again.trainable_variables))
    answers = [pt.weigh("pcgrad", [[1.0, -0.5], [-0.5, 4.0]], seed=seed)[0] for _ in range(2)]
    assert_same(*([ops.convert_to_numpy(answer)] for answer in answers))


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_a_derivative_that_is_not_finite(combine: str) -> None:
    """The root has an infinite slope at zero: of the input, and so in the gradient of weights."""

    def head(step: Any, name: str, x: Any) -> Any:
        return ops.sum(step.networks[name](step.networks["trunk"](x)), axis=-1)

    def smooth(step: Any) -> Any:
        return ops.mean(pt.derivative(lambda x: head(step, "a", x), step.inputs) ** 2)

    def steep(step: Any) -> Any:
        def root(x: Any) -> Any:
            return ops.sqrt(ops.maximum(0.0 * head(step, "b", x), 0.0))

        return ops.mean(pt.derivative(root, step.inputs) ** 2)

    found = model()
    found.compile(
        keras.optimizers.Adam(0.01),
        objectives=[
            pt.Objective("steep", steep),
            pt.Objective("smooth", smooth),
            pt.Objective("c", LOSSES["c"]),
        ],
        combine=combine,
        run_eagerly=True,
        verbose=0,
    )
    before = arrays(found.trainable_variables)
    assert fit(found)["dropped"][0] >= 1
    assert all_finite(found)
    moved = not np.array_equal(before[0], arrays(found.trainable_variables)[0])
    assert moved == (combine == "upgrad"), "the other goes on"


CLIPPED: list[dict[str, float]] = [{"clipnorm": 0.1}, {"clipvalue": 0.01}, {"global_clipnorm": 0.1}]


def clipping(clip: dict[str, float], kind: str) -> Any:
    """An optimizer that clips, or several that do, with a scale or without."""

    def adam() -> Any:
        return keras.optimizers.Adam(0.01, epsilon=1e-2, **clip)

    several = {"trunk": adam(), "*": adam()}
    if kind == "scaled":
        return keras.optimizers.LossScaleOptimizer(adam(), initial_scale=1024.0)
    if kind == "several, scaled":
        inner = pt.Optimizers(several)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
    return several if kind == "several" else adam()


@pytest.mark.parametrize("kind", ["one", "several", "scaled", "several, scaled"])
@pytest.mark.parametrize("clip", CLIPPED, ids=lambda clip: next(iter(clip)))
def test_an_optimizer_that_clips(clip: dict[str, float], kind: str) -> None:
    """The steps of the good objectives are those of a model without the bad one, clipped; an
    objective that is not finite is dropped under a scale, too, and never lowers it.
    """
    loss, good = ({name: each[name] for name in "bc"} for each in (LOSSES, Y))
    plain = "several" if "several" in kind else "one"
    found, without, free = compiled(optimizer=clipping(clip, kind)), model(), model()
    without.compile(clipping(clip, plain), loss, combine="upgrad", run_eagerly=True)
    free.compile(clipping({}, plain), loss, combine="upgrad", run_eagerly=True)
    assert fit(found, {**Y, "a": np.full_like(Y["a"], math.inf)}, epochs=2)["dropped"] == [1, 1]
    fit(free, good, epochs=2), fit(without, good, epochs=2)
    moved = [arrays(each.trainable_variables) for each in (found, without, free)]
    for one, other in zip(*moved[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert not np.allclose(moved[1][0], moved[2][0], atol=1e-4), "clipping changes something"
    assert all_finite(found)
    if "scaled" in kind:
        assert float(ops.convert_to_numpy(found.optimizer.dynamic_scale)) == 1024.0


@pytest.mark.parametrize("kind", ["one", "several", "scaled"])
@pytest.mark.parametrize("clip", CLIPPED, ids=lambda clip: next(iter(clip)))
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e25])
def test_an_optimizer_that_clips_a_sum(bad: float, clip: dict[str, float], kind: str) -> None:
    """Clipping makes Inf a NaN and 1e25 a small number: the step is judged before."""
    found = compiled("sum", Blip(1, bad), optimizer=clipping(clip, kind))
    fit(found)
    guarded = found.trainable_variables
    before = arrays(guarded)
    fit(found)
    if not (bad == 1e25 and keras.backend.backend() == "tensorflow"):
        assert_same(before, arrays(guarded))
        assert all_finite(found)


@pytest.mark.parametrize(("training", "seeds"), [(False, range(40)), (True, range(3))])
def test_fuzz_in_short(training: bool, seeds: range) -> None:
    """`python -m tests.fuzz --minutes 10` is the long form; a seed repeats with `--seed`."""
    wrong = [f"--seed {seed}: {text}" for seed in seeds for text in fuzz.run(seed, training)]
    assert not wrong, "\n".join(wrong)
