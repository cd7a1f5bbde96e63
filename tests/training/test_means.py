"""The running means of losses share a variable and are Keras's in everything else."""

from collections.abc import Callable

import keras
import numpy as np
import pytest

import polytape as pt
from small import LOSSES, data, model

# Keras counts batches of different sizes in another way where it runs eagerly on TensorFlow.
pytestmark = pytest.mark.compiled
X, Y = data(12)


def compiled(cls: type[keras.Model]) -> keras.Model:
    found = model(cls)
    weights = dict.fromkeys(LOSSES, 0.5)
    found.compile(keras.optimizers.SGD(0.05), LOSSES, weights, metrics={"a": ["mae"]})
    return found


def means(found: keras.Model) -> list[keras.metrics.Metric]:
    return [metric for metric in found.metrics if metric.name.endswith("_loss")]


def evaluated(found: keras.Model) -> dict[str, float]:
    return found.evaluate(X, Y, batch_size=5, verbose=0, return_dict=True)


def by_batch(found: keras.Model) -> dict[str, float]:
    told = {}
    for start in (0, 5):  # of different sizes, not reset in between
        rows = slice(start, start + 5 + start // 5)
        y = {name: target[rows] for name, target in Y.items()}
        told = found.train_on_batch(X[rows], y, return_dict=True)
    return {name: float(value) for name, value in told.items()}


def fitted(found: keras.Model) -> dict[str, float]:
    told = found.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0, validation_data=(X, Y))
    return {name: values[-1] for name, values in told.history.items()}


@pytest.mark.parametrize("first", [evaluated, by_batch, fitted])
def test_told_as_keras_tells(first: Callable[[keras.Model], dict[str, float]]) -> None:
    """Whatever comes first, it counts; then the same is begun anew."""
    mine, plain = compiled(pt.Model), compiled(keras.Model)
    for run in (first, evaluated):
        told, wanted = run(mine), run(plain)
        assert told.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_allclose(told[name], wanted[name], rtol=1e-6)
        for found in (mine, plain):
            found.reset_metrics()
        assert all(float(metric.result()) == 0.0 for metric in means(mine))
    assert [metric.name for metric in mine.metrics] == [
        *(metric.name for metric in plain.metrics),
        "dropped",
    ]


def test_one_variable_for_all() -> None:
    """What Keras makes for each loss is found and replaced: if not, Keras has changed."""
    found = compiled(pt.Model)
    by_batch(found)
    (variable,) = [variable for metric in means(found) for variable in metric.variables]
    assert tuple(variable.shape) == (2 * len(LOSSES),)
    assert len(means(found)) == len(LOSSES)


def test_unknown_metrics_of_keras_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(keras.metrics.Mean):
        pass

    monkeypatch.setattr(keras.src.trainers.compile_utils.metrics_module, "Mean", Other)
    mine, plain = compiled(pt.Model), compiled(keras.Model)
    assert by_batch(mine) == pytest.approx(by_batch(plain), rel=1e-6)
    assert [type(metric) for metric in means(mine)] == [Other] * len(LOSSES)
