import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import polytape
from polytape import cli, compare, startup
from polytape.catalogue import catalogue, resolve
from polytape.diagnostics.records import Comparison
from polytape.problems import load

TRAINS = keras.backend.backend() in startup.BACKENDS
needs_training = pytest.mark.skipif(not TRAINS, reason="this backend cannot train")
FILES = {"records.json", "table.md", "table.csv", "curves.png", "tradeoff.png", "report.html"}


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def compared(out, *arguments):
    return run("compare", "toy", "--epochs", 2, "--seeds", 1, "--out", out, *arguments)


@needs_training
def test_compare_trains_tables_and_draws(tmp_path):
    done = compared(tmp_path, "--methods", "sum,pcgrad", "--batch-size", 128)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert "PCGrad" in done.output
    assert f"Written to {tmp_path}: records.json" in done.output
    found = Comparison.load(tmp_path / "records.json")
    assert [run.method for run in found.runs] == ["Sum", "PCGrad"]
    assert found.batch_size == 128
    assert found.environment["backend"] == keras.backend.backend()
    for made in found.runs:
        assert made.status == "finished", made.reason
        assert np.shape(made.cosines) == (2, 3, 3)
        assert np.shape(made.norms) == (2, 3)
        assert len(made.history["val_east_loss"]) == 2
        assert made.step_seconds[1] > 0
        assert made.recorded == [0]  # four steps, and one record of ten
        assert made.layers.keys() == {"shared"}
        assert sum(share for (share,) in made.shares.values()) == pytest.approx(1, abs=1e-4)
        assert "conflict_rate" not in made.history
    assert found.runs[0].weights == {"east": [1.0], "west": [1.0], "north": [1.0]}


@needs_training
def test_methods_start_from_the_same_weights_and_see_the_same_batches(tmp_path):
    compared(tmp_path, "--methods", "sum,mean", "--learning-rate", 1e-12)
    first, second = Comparison.load(tmp_path / "records.json").runs
    assert first.history["val_north_loss"] == pytest.approx(second.history["val_north_loss"])
    np.testing.assert_allclose(first.cosines, second.cosines, atol=1e-5)


@needs_training
def test_ctrl_c_keeps_what_is_finished(tmp_path, monkeypatch):
    train = compare._Training._fit

    def interrupted(self, method, seed, record):
        if type(method).__name__ == "Mean":
            raise KeyboardInterrupt
        train(self, method, seed, record)

    monkeypatch.setattr(compare._Training, "_fit", interrupted)
    done = compared(tmp_path, "--methods", "sum,mean,pcgrad")
    assert done.exit_code == 130
    assert "Not run: Mean (seed 0), PCGrad (seed 0)." in done.output
    assert {path.name for path in tmp_path.iterdir()} == FILES
    found = json.loads((tmp_path / "records.json").read_text())
    assert found["interrupted"] is True
    assert [run["method"] for run in found["runs"]] == ["Sum"]


@needs_training
def test_one_failing_method_does_not_stop_the_others(tmp_path, monkeypatch):
    train = compare._Training._fit

    def fragile(self, method, seed, record):
        if type(method).__name__ == "Sum":
            raise RuntimeError("out of luck\nand more lines")
        train(self, method, seed, record)

    monkeypatch.setattr(compare._Training, "_fit", fragile)
    done = compared(tmp_path, "--methods", "sum,mean")
    assert done.exit_code == 0
    assert "Sum: failed in 1 of 1: RuntimeError: out of luck" in done.output
    assert Comparison.load(tmp_path / "records.json").runs[1].status == "finished"
    monkeypatch.setattr(compare._Training, "_fit", lambda *_: 1 / 0)
    assert compared(tmp_path, "--methods", "sum,mean").exit_code == 1


def test_a_run_that_ends_with_nan_is_called_diverged():
    training = compare._Training(load("toy"), ((), {}, (), {}), None, None, None)
    history = {f"val_{name}_loss": [1.0, 2.0] for name in ("east", "west", "north")}
    assert training._judge(history) == ("finished", "")
    history["val_west_loss"] = [1.0, float("nan")]
    expected = ("diverged", "val_west_loss is not finite from epoch 2 on")
    assert training._judge(history) == expected
    with pytest.raises(ValueError, match="The history has no 'val_east_loss'; it has "):
        training._judge({"val_loss": [1.0]})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--methods", "pcgrd"], "Unknown method: 'pcgrd'. Did you mean \"pcgrad\""),
        (["--methods", " , "], "--methods names no method."),
        (["--methods", "every"], "'every' cannot be named alone"),
        (["multidigit"], "Unknown problem: 'multidigit'. Did you mean 'multidigits'?"),
        (["--seeds", "0"], "--seeds must be at least 1. Received: 0."),
        (["--epochs", "-2"], "--epochs must be at least 1. Received: -2."),
        (["--batch-size", "0"], "--batch-size must be at least 1. Received: 0."),
        (["--learning-rate", "nan"], "--learning-rate must be a positive number. Received: nan."),
    ],
)
def test_refuses_before_training(tmp_path, arguments, text):
    done = run("compare", *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_methods_lists_every_method_and_stage():
    done = run("methods")
    assert done.exit_code == 0
    for name in catalogue():
        assert re.search(rf"^{name} ", done.output, re.MULTILINE), name


def test_methods_prints_one_in_full():
    done = run("methods", "up-grad")
    assert done.output.startswith("pt.UPGrad\n\nUnconflicting projection of gradients")
    field = r"  preference = None +a tuple of positive numbers, one per objective"
    assert re.search(field, done.output)
    assert "  cost       F + T B\n" in done.output
    wrong = run("methods", "upgrd")
    assert wrong.exit_code == 2
    assert "Unknown method: 'upgrd'. Did you mean \"upgrad\"" in wrong.stderr


def test_methods_writes_the_page(tmp_path):
    assert run("methods", "--out", tmp_path / "methods.md").exit_code == 0
    assert (tmp_path / "methods.md").read_text().startswith("# Methods and stages\n")


def test_default_methods_exist():
    for name in cli.DEFAULT_METHODS.split(","):
        resolve(name)


def test_version():
    assert run("--version").output.strip() == polytape.__version__


# --------------------------------------------------------------------------- before Keras


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As if Keras had not been imported, and nothing were configured."""
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def installed(*frameworks):
        monkeypatch.setattr(startup, "_installed", lambda name: name in frameworks)

    return installed


def test_the_first_installed_backend_is_taken(fresh):
    fresh("jax", "torch")
    startup.choose_backend(training=True)
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_keras_json_is_honoured_if_it_can_be(fresh, tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    fresh("jax", "torch")
    startup.choose_backend(training=True)
    assert os.environ["KERAS_BACKEND"] == "torch"


def test_the_variable_comes_first(fresh, tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    fresh("jax", "torch", "tensorflow")
    startup.choose_backend(training=True)
    assert os.environ["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("", r'Keras needs a framework to train with: pip install "polytape\[tensorflow\]"'),
        ("jax", r'jax is not installed. Install it: pip install "polytape\[jax\]"'),
        ("numpy", "KERAS_BACKEND=numpy cannot train"),
    ],
)
def test_says_what_to_install(fresh, monkeypatch, asked, text):
    monkeypatch.setenv("KERAS_BACKEND", asked)
    fresh()
    with pytest.raises(ValueError, match=text):
        startup.choose_backend(training=True)


@pytest.mark.parametrize("asked", ["", "numpy"])
@pytest.mark.parametrize(
    ("there", "chosen"), [(("tensorflow", "jax"), "numpy"), (("torch",), "torch")]
)
def test_lists_with_numpy_where_it_works(fresh, monkeypatch, asked, there, chosen):
    """Keras's NumPy backend imports JAX."""
    monkeypatch.setenv("KERAS_BACKEND", asked)
    fresh(*there)
    startup.choose_backend(training=False)
    assert os.environ["KERAS_BACKEND"] == chosen


def test_native_noise_is_dropped_and_python_messages_are_kept():
    code = (
        "import os, sys\n"
        "from polytape.startup import quiet_frameworks\n"
        "with quiet_frameworks():\n"
        "    os.write(2, b'noise\\n')\n"
        "    print('message', file=sys.stderr)\n"
        "os.write(2, b'later\\n')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.stderr == "message\nlater\n"
    done = subprocess.run(
        call, capture_output=True, text=True, env={**environment, "TF_CPP_MIN_LOG_LEVEL": "0"}
    )
    assert done.stderr == "noise\nmessage\nlater\n"
