"""What Keras's callbacks and reports read off a model: with one and with several optimizers."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import callbacks, ops
from keras.optimizers import SGD, Adam, LossScaleOptimizer

import polytape as pt

pytestmark = pytest.mark.engine

RNG = np.random.default_rng(3)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = {name: RNG.integers(0, 2, (8, 1)).astype("float32") for name in ("ctr", "cvr")}
KINDS = [(given, count) for given in ("loss", "objectives") for count in ("one", "several")]
WATCHED = ["loss", "ctr_loss", "cvr_loss", "ctr_auc", "ctr_mae", "cvr_auc"]  # in `evaluate`'s order


@keras.saving.register_keras_serializable("what_keras_reads")
def forward(networks: Any, x: Any) -> dict[str, Any]:
    code = networks["body"](x)
    return {name: networks[name](code) for name in ("ctr", "cvr")}


def dense(shape: int, units: int, name: str, activation: str = "sigmoid") -> keras.Sequential:
    layers = [keras.Input((shape,)), keras.layers.Dense(units, activation, name=f"{name}_dense")]
    return keras.Sequential(layers, name=name)


def optimizers(count: str, ema: bool = False) -> Any:
    momentum = {"use_ema": ema, "ema_momentum": 0.5}
    if count == "one":
        return Adam(0.1, **momentum)
    return {"body": Adam(0.1, **momentum), "ctr": SGD(0.2, **momentum), "*": SGD(0.4)}


def objectives(loss: str) -> list[pt.Objective]:
    return [pt.Objective("ctr", loss), pt.Objective("cvr", "mse")]


def compiled(given: str = "loss", count: str = "one", **options: Any) -> pt.Model:
    keras.utils.set_random_seed(1)
    networks = {"body": dense(3, 4, "body"), "ctr": dense(4, 1, "ctr"), "cvr": dense(4, 1, "cvr")}
    model = pt.Model(networks=networks, forward=forward)
    auc = {"num_thresholds": 5, "name": "auc"}
    metrics = {"ctr": [keras.metrics.AUC(**auc), "mae"], "cvr": [keras.metrics.AUC(**auc)]}
    if given == "loss":
        losses = {"loss": {"ctr": "binary_crossentropy", "cvr": "mse"}}
        model(X)  # its outputs are known from then on
    else:
        losses = {"objectives": objectives("binary_crossentropy")}
    options = {"optimizer": optimizers(count), "metrics": metrics, **options}
    model.compile(**losses, combine="upgrad", run_eagerly=True, verbose=0, **options)
    return model


def fit(model: pt.Model, *given: Any, epochs: int = 2, **options: Any) -> dict[str, list[float]]:
    data = {"validation_data": (X, Y), "batch_size": 4, "verbose": 0, "epochs": epochs, **options}
    return model.fit(X, Y, callbacks=list(given), **data).history


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model trained under all callbacks that only look, what they saw, and where they wrote."""
    given, count = request.param
    path, seen = tmp_path_factory.mktemp("run"), []
    model = compiled(given, count)
    watching = [
        callbacks.BackupAndRestore(path / "backup", delete_checkpoint=False),
        callbacks.CSVLogger(path / "log.csv"),
        callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
        callbacks.ModelCheckpoint(path / "best.keras", save_best_only=True),
        callbacks.ModelCheckpoint(path / "every.weights.h5", save_weights_only=True, save_freq=1),
        callbacks.ProgbarLogger(),
        callbacks.TerminateOnNaN(),
    ]
    history = fit(model, *watching, verbose=2)
    return model, count, path, seen, history


def test_every_log_has_one_name(trained: Any) -> None:
    _, _, path, seen, history = trained
    names = [*sorted(WATCHED), *(f"val_{name}" for name in sorted(WATCHED)), "dropped"]  # by CSV
    assert sorted(history) == sorted(names)
    assert all(len(values) == 2 for values in history.values())
    assert [sorted(logs) for logs in seen] == [sorted(names)] * 2
    json.dumps(seen)  # as RemoteMonitor sends them
    with (path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {name: float(rows[-1][name]) for name in names} == pytest.approx(seen[-1])


def test_what_evaluate_returns_has_names(trained: Any) -> None:
    model, *_ = trained
    assert model.metrics_names == WATCHED
    listed = model.evaluate(X, Y, verbose=0)
    named = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert dict(zip(model.metrics_names, listed, strict=True)) == pytest.approx(named)
    one = model.test_on_batch(X, Y, return_dict=True)
    assert sorted(one) == sorted(WATCHED)
    model.reset_metrics()
    assert not any(float(value) for value in model.get_metrics_result().values())


def test_what_was_saved_goes_on(trained: Any) -> None:
    model, count, path, _, history = trained
    again = keras.saving.load_model(path / "best.keras")
    best = min(history["val_loss"])
    assert again.evaluate(X, Y, verbose=0)[0] == pytest.approx(best, rel=1e-5)
    again.load_weights(path / "every.weights.h5")
    resumed = compiled("objectives" if model.compilation.settings.objectives else "loss", count)
    backup = callbacks.BackupAndRestore(path / "backup", delete_checkpoint=False)
    assert len(fit(resumed, backup, epochs=3)["loss"]) == 1  # two of them are done
    assert int(resumed.optimizer.iterations) == 6


def test_summary_counts_the_optimizer(trained: Any) -> None:
    model, count, *_ = trained
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    # Two moments of each variable of Adam's; 26 in all, the body's 16; each counts and has a rate.
    numbers = 2 * 26 + 2 if count == "one" else 1 + 2 * 16 + 2 + 2 + 2
    assert f"Optimizer params: {numbers} " in "\n".join(lines)


def test_the_compiled_model_describes_itself(trained: Any) -> None:
    model, *_ = trained
    assert set(model.predict(X, verbose=0)) == {"ctr", "cvr"}
    assert model.loss == {"ctr": "binary_crossentropy", "cvr": "mse"}
    assert keras.saving.serialize_keras_object(model)["compile_config"]["optimizer"]


@pytest.mark.parametrize("count", ["one", "several"])
def test_tensorboard(count: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="writes the files of TensorBoard")
    pytest.importorskip("tensorboard", reason="writes the files of TensorBoard")
    board = callbacks.TensorBoard(
        tmp_path, histogram_freq=1, write_steps_per_second=True, update_freq=1
    )
    fit(compiled("objectives", count), board)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part, prefix in (("train", ""), ("validation", "")):
        found = EventAccumulator(str(tmp_path / part))
        found.Reload()
        tags = {tag for tag in found.Tags()["tensors"] if tag.startswith("epoch_")}
        more = {"epoch_learning_rate", "epoch_steps_per_second"} if part == "train" else set()
        assert tags == {f"epoch_{prefix}{name}" for name in WATCHED} | more


def test_the_best_value_of_a_metric_is_known() -> None:
    inputs = keras.Input((3,))
    model = pt.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(inputs))
    auc = keras.metrics.AUC(num_thresholds=5, name="auc")
    click = pt.Objective("click", "binary_crossentropy")
    model.compile(objectives=[click], metrics=["acc", auc, "mae"], run_eagerly=True, verbose=0)
    for name, better in (("acc", ops.greater), ("auc", ops.greater), ("mae", ops.less)):
        stop = callbacks.EarlyStopping(f"val_{name}")
        data = {"validation_data": (X, Y["ctr"]), "verbose": 0}
        model.fit(X, Y["ctr"], callbacks=[stop], **data)
        assert stop.monitor_op is better
    assert model.metrics_names == ["loss", "acc", "auc", "mae", "click_loss"]


def test_compiled_anew_nothing_is_left() -> None:
    model = compiled("loss")
    fit(model, epochs=1)
    model.compile("sgd", objectives=objectives("mae"), run_eagerly=True, verbose=0)
    names = ["loss", "ctr_loss", "cvr_loss"]
    assert sorted(model.fit(X, Y, verbose=0).history) == sorted(names)
    assert model.metrics_names == names
    assert model.loss == {"ctr": "mae", "cvr": "mse"}


def test_a_list_of_callbacks_made_beforehand() -> None:
    model, seen = compiled("objectives"), []
    given = callbacks.CallbackList(
        [callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs)))],
        add_history=True,
        model=model,
        epochs=1,
    )
    before = list(given.callbacks)
    for _ in range(2):
        assert model.fit(X, Y, callbacks=given, verbose=0) is not None
    assert given.callbacks == before
    assert seen == [sorted(WATCHED)] * 2


# ---------------------------------------------------------------------- learning rates


def rates(model: pt.Model) -> list[float]:
    parts = model.optimizer
    if isinstance(parts, LossScaleOptimizer):
        parts = parts.inner_optimizer
    return [float(ops.convert_to_numpy(parts[name].learning_rate)) for name in parts]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_schedule_moves_all_rates_in_proportion(scaled: bool) -> None:
    model = compiled("objectives", "several")
    if scaled:
        whole = LossScaleOptimizer(model.optimizer)
        model.compile(whole, objectives=objectives("mse"), run_eagerly=True, verbose=0)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1)
    history = fit(model, callbacks.LearningRateScheduler(lambda epoch: 0.05), epochs=1)
    assert rates(model) == pytest.approx([0.05, 0.1, 0.2])
    assert history["learning_rate"] == pytest.approx([0.05])
    fit(model, callbacks.LearningRateScheduler(lambda epoch, rate: rate / 5), epochs=1)
    assert rates(model) == pytest.approx([0.01, 0.02, 0.04])
    parts = model.optimizer.inner_optimizer if scaled else model.optimizer
    parts["ctr"].learning_rate = 1.0  # from then on these are the proportions
    plateau = {"monitor": "loss", "factor": 0.5, "patience": 1, "min_delta": 1e9}
    fit(model, callbacks.ReduceLROnPlateau(**plateau), epochs=2)
    assert rates(model) == pytest.approx([0.005, 0.5, 0.02])


def test_a_schedule_of_its_own_is_not_overwritten() -> None:
    model = compiled("objectives", optimizer={"body": Adam(Halving()), "*": "sgd"})
    with pytest.raises(TypeError, match=r"optimizer\['body'\] follows a schedule"):
        fit(model, callbacks.LearningRateScheduler(lambda epoch: 0.05))
    history = fit(model, callbacks.ReduceLROnPlateau("loss", patience=9))  # reads it only
    assert history["learning_rate"] == pytest.approx([0.01 / 4, 0.01 / 16])


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> Any:
        return 0.01 * 0.5 ** ops.cast(step, "float32")


# ---------------------------------------------------------------------- averages


class Weights(callbacks.Callback):
    """The first kernel of each network in the steps and in validation, and the averages."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: Any = None
        self.averages: dict[str, Any] = {}
        self.tested: Any = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.trained = kernels(self.model)
        before = self.averages
        self.averages = {
            name: value if name not in before else 0.5 * before[name] + 0.5 * value
            for name, value in self.trained.items()
        }

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.tested = kernels(self.model)


def kernels(model: pt.Model) -> dict[str, Any]:
    networks = model.networks.items()
    return {name: ops.convert_to_numpy(network.weights[0]).copy() for name, network in networks}


@pytest.mark.parametrize(("given", "count"), KINDS)
def test_averages_are_swapped_in(given: str, count: str) -> None:
    model = compiled(given, count, optimizer=optimizers(count, ema=True))
    seen = Weights()
    fit(model, seen, callbacks.SwapEMAWeights(), epochs=2)
    averaged = ["body", "ctr", "cvr"] if count == "one" else ["body", "ctr"]
    for name, value in seen.tested.items():
        right = seen.averages if name in averaged else seen.trained
        np.testing.assert_allclose(value, right[name], rtol=1e-5)
        # After `fit` Keras leaves the averages in the variables.
        np.testing.assert_allclose(kernels(model)[name], right[name], rtol=1e-5)
        assert (name in averaged) == (not np.allclose(value, seen.trained[name], rtol=1e-4))


def test_averages_are_swapped_after_each_epoch_and_under_loss_scaling() -> None:
    parts = pt.Optimizers(optimizers("several", ema=True))
    model = compiled("objectives", optimizer=LossScaleOptimizer(parts, initial_scale=4.0))
    seen = Weights()
    fit(model, seen, callbacks.SwapEMAWeights(swap_on_epoch=True), epochs=2, validation_data=None)
    for name in ("body", "ctr"):
        np.testing.assert_allclose(kernels(model)[name], seen.averages[name], rtol=1e-5)


def test_averages_that_nobody_keeps_are_refused() -> None:
    model = compiled("objectives", "several")
    with pytest.raises(ValueError, match="use_ema=True"):
        fit(model, callbacks.SwapEMAWeights())
