import dataclasses

import keras
import numpy as np
import pytest

from polytape.problems import Problem, load, names
from polytape.problems.batches import Batches, mean_loss
from polytape.problems.multidigits import multidigits


def fields(**changes):
    problem = load("toy")
    found = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    return {**found, **changes}


@pytest.mark.parametrize("name", names())
def test_built_in_problems_fit_together(name):
    problem = load(name)
    inputs, outputs = problem.build()
    model = keras.Model(inputs, outputs)
    x, y, x_val, y_val = problem.load_data()
    predicted = model.predict(x_val[:4], verbose=0)
    assert set(predicted) == set(problem.objectives)
    for objective, loss in problem.losses.items():
        value = mean_loss(loss, y[objective][:8], model(x[:8])[objective])
        assert np.isfinite(float(keras.ops.convert_to_numpy(value)))
        assert y_val[objective].shape[1:] == y[objective].shape[1:]


def test_the_toy_loss_is_the_squared_distance_to_the_wish():
    problem = load("toy")
    inputs, outputs = problem.build()
    model = keras.Model(inputs, outputs)
    model.get_layer("shared").set_weights([np.array([[0.5], [0.25]])])
    x, y, *_ = problem.load_data()
    found = {
        name: float(keras.ops.convert_to_numpy(mean_loss("mse", y[name], model(x)[name])))
        for name in problem.objectives
    }
    assert found == pytest.approx(
        {"east": 0.25 + 0.0625, "west": 2.25 + 0.0625, "north": 9 * (0.25 + 0.5625)}, rel=1e-5
    )


def test_multidigits_overlays_two_scans_and_is_the_same_each_time():
    x, y, x_val, _ = multidigits().load_data()
    assert x.shape == (6000, 12, 12)
    assert x_val.shape == (1500, 12, 12)
    assert x.min() == 0
    assert x.max() == 1
    assert np.all(x[:, :4, 8:] == 0)  # the corners that neither digit reaches
    assert np.all(x[:, 8:, :4] == 0)
    np.testing.assert_array_equal(y["image"], x)
    np.testing.assert_array_equal(multidigits().load_data()[0], x)


def test_multidigits_shows_no_scan_in_both_parts():
    x, _, x_val, _ = multidigits().load_data()
    # The upper left 4 x 8 strip holds the left scan alone.
    train = {strip.tobytes() for strip in x[:, :4, :8]}
    shared = np.mean([strip.tobytes() in train for strip in x_val[:, :4, :8]])
    assert shared < 0.01


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"objectives": ("east",)}, "`objectives` must hold at least two names"),
        ({"build": 3}, r"`build` must be a function without arguments. Received: 3."),
        ({"losses": {"east": "mse"}}, r"`losses` must be a dictionary .* Received: \['east'\]"),
        ({"headline": "loss"}, "`headline` must be a dictionary .* Received: str"),
        (
            {"headline": dict.fromkeys(("east", "west", "north"), ("mae", "min"))},
            r"headline\['east'\] must be .* among \['loss'\] .* Add the metric to `metrics`",
        ),
        (
            {"headline": dict.fromkeys(("east", "west", "north"), ("loss", "less"))},
            r"the goal 'max' or 'min'. Received: \('loss', 'less'\)",
        ),
    ],
)
def test_refuses_fields_that_do_not_fit(changes, text):
    with pytest.raises(ValueError, match=text):
        Problem(**fields(**changes))


def test_refuses_data_of_other_form_or_length():
    with pytest.raises(ValueError, match=r"must return \(x_train, .* Received: tuple of 2 parts"):
        Problem(**fields(data=lambda: (1, 2))).load_data()
    x, y, x_val, y_val = load("toy").data()
    with pytest.raises(ValueError, match="x_val has 3 examples, but the targets have"):
        Problem(**fields(data=lambda: (x, y, x_val[:3], y_val))).load_data()
    with pytest.raises(ValueError, match=r"data\(\) y_train"):
        Problem(**fields(data=lambda: (x, y["east"], x_val, y_val))).load_data()


def test_batches_follow_the_seed_and_see_every_example_in_time():
    x, y = np.arange(10), {"a": np.arange(10) * 2}

    def epochs(seed):
        batches = Batches(x, y, 4, seed)
        found = []
        for _ in range(8):
            found.append(np.concatenate([batches[i][0] for i in range(len(batches))]))
            batches.on_epoch_end()
        return found

    found = epochs(0)
    assert all(len(set(epoch.tolist())) == 8 for epoch in found)  # two batches, none twice
    assert {*np.concatenate(found).tolist()} == {*x.tolist()}
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(epochs(0), found)
    assert not np.array_equal(epochs(1)[0], found[0])
    batch_x, batch_y = Batches(x, y, 4, 0)[1]
    np.testing.assert_array_equal(batch_y["a"], 2 * batch_x)
    assert len(batch_x) == 4


def test_batches_of_few_examples_hold_them_all():
    batches = Batches(np.arange(3), {"a": np.arange(3)}, 4, 0)
    assert len(batches) == 1
    assert len(batches[0][0]) == 3


def test_a_loss_leaves_out_examples_without_label():
    targets = np.array([[1.0], [np.nan], [3.0]], "float32")
    outputs = keras.ops.convert_to_tensor([[0.0], [9.0], [0.0]])
    assert float(keras.ops.convert_to_numpy(mean_loss("mse", targets, outputs))) == 5
