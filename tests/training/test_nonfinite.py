"""What is not finite never reaches a variable, a slot, a statistic or a method's state."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from small import LOSSES, arrays, assert_same, data, everything, model

X, Y = data(16)
INF = {**Y, "a": np.full_like(Y["a"], np.inf)}  # NaN would be no label
METHODS = {
    "sum": "sum",
    "mean": "mean",
    "dwa": pt.DWA(steps=1),
    "upgrad": "upgrad",
    "every": pt.Every(pt.IMTLG(), 2),
    "per variable": pt.Smoothed(pt.PerVariable(pt.PCGrad())),
    "rows": "graddrop",
}


def compiled(combine, busy=True, **options):
    found = model(busy=busy)
    options.setdefault("on_nonfinite", "isolate")
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine=combine, **options)
    return found


def fit(found, y, x=X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return found.fit(x, y, batch_size=16, epochs=1, verbose=0, shuffle=False).history


@pytest.mark.parametrize("name", METHODS)
def test_one_objective_is_left_out_and_the_others_go_on(name):
    found = compiled(METHODS[name])
    before = arrays(found.trainable_variables)
    history = fit(found, INF)
    assert history["dropped"] == [1]
    after = everything(found)
    assert all(np.isfinite(value).all() for value in after)
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=False)]
    assert moved[0], "the trunk is trained by the others"
    paths = [variable.path for variable in found.trainable_variables]
    heads = [did for path, did in zip(paths, moved, strict=False) if path.startswith("b/")]
    assert all(heads), "the heads of the others are trained"
    assert fit(found, Y).get("dropped", [0]) == [0]


@pytest.mark.parametrize("combine", ["sum", "mean", "upgrad", pt.IMTLG(), pt.AlignedMTL()])
def test_the_others_are_combined_as_if_it_did_not_exist(combine):
    with_it, without = compiled(combine, busy=False), compiled(combine, busy=False)
    without.compile(
        keras.optimizers.Adam(0.01), {name: LOSSES[name] for name in "bc"}, combine=combine
    )
    fit(with_it, INF)
    fit(without, {name: Y[name] for name in "bc"})
    pairs = zip(with_it.trainable_variables, without.trainable_variables, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(arrays([one])[0], arrays([other])[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_nothing_but_nan_changes_nothing(name):
    found = compiled(METHODS[name])
    fit(found, Y)
    before = everything(found)
    fit(found, Y, x=np.full_like(X, np.nan))
    seeds = {v.path for v in found.variables if "seed" in v.path}
    for variable, old in zip(found.variables, before, strict=False):
        if variable.path not in seeds:  # dropout did draw
            np.testing.assert_array_equal(arrays([variable])[0], old)


@keras.saving.register_keras_serializable(package="tests")
def root(y_true, y_pred):
    """Finite at zero, with an infinite gradient there; 0 x inf is NaN."""
    return ops.mean(ops.sqrt(ops.maximum(y_pred * 0.0 * y_true, 0.0)))


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_a_finite_loss_with_a_gradient_that_is_not(combine):
    found = model()
    found.compile("adam", {**LOSSES, "b": root}, combine=combine, on_nonfinite="isolate")
    before = arrays(found.trainable_variables)
    assert fit(found, Y)["dropped"] == [1]
    after = arrays(found.trainable_variables)
    assert all(np.isfinite(value).all() for value in after)
    assert not np.array_equal(before[0], after[0])


def test_the_warning_names_the_objective():
    found = compiled("upgrad")
    with pytest.warns(RuntimeWarning, match=r"Epoch 1: .*left out of the step: 'a' \(1 x\)"):
        found.fit(X, INF, verbose=0, batch_size=16)


@pytest.mark.parametrize("loss", [LOSSES, {**LOSSES, "b": root}], ids=["loss", "gradient"])
def test_a_method_of_one_pass_skips_the_step_and_says_why(loss):
    found = model()
    found.compile(keras.optimizers.Adam(0.01), loss, combine=pt.DWA(steps=1))
    before = everything(found)
    with pytest.warns(RuntimeWarning, match=r"'a' \(1 x\)" + r".*'b'" * (loss is not LOSSES)):
        found.fit(X, INF if loss is LOSSES else Y, batch_size=16, verbose=0)
    assert_same(before, everything(found)[: len(before)])


@pytest.mark.parametrize(
    ("combine", "way"), [("upgrad", "skip"), ("sum", "skip"), ("sum", "drop"), ("dwa", "drop")]
)
def test_skip_leaves_everything_as_it_was(combine, way):
    found = compiled(combine, busy=False, on_nonfinite=way)
    fit(found, Y)
    before = everything(found)
    fit(found, INF)
    assert_same(before, everything(found))


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_raise_stops_and_names_the_objective(way):
    found = compiled("upgrad", on_nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"not finite: 'a' \(1 x\).*division of zero"):
        fit(found, INF) if way == "fit" else found.train_on_batch(X, INF)
    assert all(np.isfinite(value).all() for value in everything(found))


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_overflow_under_loss_scaling_lowers_the_scale(combine):
    found = model()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=float(2.0**127)
    )
    found.compile(optimizer, LOSSES, combine=combine)
    before = arrays(found.trainable_variables)
    history = fit(found, {**Y, "a": Y["a"] * 100})
    assert "dropped" not in history  # it is the scale's doing, not the objective's
    assert float(ops.convert_to_numpy(optimizer.dynamic_scale)) == 2.0**126
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 0
    assert_same(before, arrays(found.trainable_variables))


class Fragile(keras.layers.Layer):
    """Adds the logarithm of the mean of its input to the loss: NaN where that is negative."""

    def call(self, inputs):
        self.add_loss(ops.log(ops.mean(inputs)))
        return inputs


@pytest.mark.parametrize("name", ["sum", "dwa", "upgrad", "every", "rows"])
def test_an_added_loss_that_is_not_finite_skips_the_step(name):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, name="trunk")(inputs)
    hidden = Fragile()(hidden)
    heads = {key: keras.layers.Dense(1, name=key)(hidden) for key in "ab"}
    found = pt.Model(inputs, heads)
    found.get_layer("trunk").kernel.assign(np.full((4, 6), 0.1))
    found.compile(keras.optimizers.Adam(0.01), dict.fromkeys("ab", "mse"), combine=METHODS[name])
    targets = {key: Y[key] for key in "ab"}
    fit(found, targets, np.abs(X))
    before = everything(found)
    history = fit(found, targets, -np.abs(X))
    assert history["dropped"] == [2]
    changed = [
        k
        for k, pair in enumerate(zip(before, everything(found), strict=True))
        if not np.array_equal(*pair)
    ]
    assert not changed
