"""DTP: the focal weight, and metrics folded into the state."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

NAMES = ("a", "b", "c")
METHOD = pt.DTP({"a": "val_a_accuracy", "c": "c_auc"}, gamma=2.0, decay=0.8)


def weights(kpi: np.ndarray) -> np.ndarray:
    state = {"kpi": ops.convert_to_tensor(kpi)}
    found, after = pt.weigh(METHOD, losses=[1.0, 2.0, 0.0], state=state, names=NAMES)
    keras.tree.map_structure(np.testing.assert_array_equal, after, state)
    return ops.convert_to_numpy(found)


def test_moving_average_of_the_metrics_and_the_focal_weight_of_it() -> None:
    kpi = METHOD.init(NAMES)["kpi"]
    assert (weights(kpi) == 1).all()
    kpi = METHOD.on_epoch_metrics(kpi, NAMES, {"val_a_accuracy": 0.5, "loss": 3.0})
    np.testing.assert_allclose(weights(kpi), [0.25 * np.log(2), 1, 1], rtol=1e-6)
    kpi = METHOD.on_epoch_metrics(
        kpi, NAMES, {"val_a_accuracy": 1.0, "c_auc": 1.0, "b_accuracy": 0.1}
    )
    assert kpi.dtype == np.float32
    np.testing.assert_allclose(kpi, [0.6, 0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(weights(kpi), [-0.16 * np.log(0.6), 1, 0], rtol=1e-6)


def test_bad_metrics_have_a_floor_or_no_effect() -> None:
    kpi = METHOD.on_epoch_metrics(
        METHOD.init(NAMES)["kpi"], NAMES, {"val_a_accuracy": -5.0, "c_auc": 0.0}
    )
    np.testing.assert_allclose(kpi, [1e-3, 0, 1e-3], rtol=1e-6)
    np.testing.assert_allclose(weights(kpi)[0], 0.999**2 * np.log(1e3), rtol=1e-5)
    again = METHOD.on_epoch_metrics(kpi, NAMES, {"val_a_accuracy": np.nan})
    np.testing.assert_array_equal(again, kpi)
    stacked = METHOD.on_epoch_metrics(np.zeros((2, 3), "float32"), NAMES, {"c_auc": 0.5})
    np.testing.assert_array_equal(stacked, [[0, 0, 0.5]] * 2)


def test_percentages_and_strangers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'c_auc' as the performance of 'c'.*Received: 87.0"):
        METHOD.on_epoch_metrics(np.zeros(3), NAMES, {"c_auc": 87.0})
    with pytest.raises(ValueError, match=r"'c' is not an objective. Objectives: 'a', 'b'."):
        METHOD.init(("a", "b"))
