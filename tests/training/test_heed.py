"""Methods that read logged metrics."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
import small


def kpi(aggregator: object) -> np.ndarray:
    return ops.convert_to_numpy(aggregator.state.named("kpi")[0].value)


def test_fit_hands_the_metrics_of_each_epoch_to_the_method() -> None:
    model = small.model()
    model.compile(
        "sgd",
        small.LOSSES,
        metrics={"c": "accuracy"},
        combine=pt.Chain(pt.DTP({"c": "val_c_accuracy"}, decay=0.25), pt.UPGrad()),
    )
    x, y = small.data()
    logs = model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0).history
    first, second = logs["val_c_accuracy"]
    found = kpi(model.plan.aggregator)
    np.testing.assert_allclose(found, [0, 0, 0.25 * first + 0.75 * second], rtol=1e-5)


def test_a_metric_that_is_not_logged_is_named() -> None:
    model = small.model()
    model.compile("sgd", small.LOSSES, combine=pt.DTP({"c": "val_c_accuracy"}))
    with pytest.raises(ValueError, match=r"DTP reads 'val_c_accuracy' as the metric of 'c', which"):
        model.fit(*small.data(), verbose=0)


def test_a_loop_of_ones_own_hands_them_over_itself() -> None:
    combiner = pt.Combiner(pt.DTP({"a": "a_accuracy"}))
    with pytest.raises(RuntimeError, match=r"on_epoch_metrics\(\) needs the state"):
        combiner.on_epoch_metrics({"a_accuracy": 0.5})
    combiner.prepare(("a", "b"), [keras.Variable([1.0])])
    combiner.on_epoch_metrics({"a_accuracy": 0.5})
    np.testing.assert_allclose(kpi(combiner._aggregator), [0.5, 0.0])
