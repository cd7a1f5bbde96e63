"""Bad input is told before the first step, by name and with a remedy, and nothing is touched."""

import keras
import pytest
from keras import layers, ops

import polytape as pt
from small import LOSSES, assert_same, data, everything, model, tensors

X, Y = data(16)


def compiled(**changes):
    found = model()
    found.compile(**{"optimizer": "adam", "loss": LOSSES, "combine": "upgrad", **changes})
    return found


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"combine": "upgrda"}, ValueError, r"Unknown method: 'upgrda'.*upgrad.*polytape methods"),
        ({"combine": pt.UPGrad}, TypeError, r"the class UPGrad itself: add the parentheses"),
        ({"combine": 3}, TypeError, r"Expected the name of a method.*Received: 3 of type int"),
        ({"loss": {"a": "mse", "d": "mse"}}, ValueError, r"loss for 'd'.*no output.*'a', 'b', 'c'"),
        ({"loss_weights": {"a": 1.0, "bb": 1.0}}, ValueError, r"weight for 'bb'.*Did you mean 'b'"),
        ({"loss_weights": [1.0, 2.0]}, ValueError, r"one weight per loss. Received: 2 weights"),
        ({"combine": pt.Reweight({"aa": 1})}, ValueError, r"'aa', which is not an objective.*'a'"),
        ({"private": "mine"}, ValueError, r"own.*weighted.*joint.*Received: 'mine'"),
        ({"on_nonfinite": "cry"}, ValueError, r"drop.*skip.*raise.*Received: 'cry'"),
        ({"loss": {"a": ["mse", "mse"]}}, ValueError, r"Two objectives are called 'a/mean_squared"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_compile_refuses(changes, kind, words):
    with pytest.raises(kind, match=words):
        compiled(**changes)


def refused(found, words, x=X, y=Y):
    """`fit` raises with these words, touches nothing, and the model can still be used."""
    found.optimizer.build(found.trainable_variables)
    before = everything(found)
    with pytest.raises(ValueError, match=words):
        found.fit(x, y, verbose=0)
    assert_same(before, everything(found))
    found.predict(x[:2], verbose=0)


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_an_objective_that_reaches_nothing(combine):
    inputs, outputs = tensors()
    outputs["b"] = layers.Lambda(ops.stop_gradient, name="b")(outputs["a"])
    found = pt.Model(inputs, outputs)
    found.compile("adam", LOSSES, combine=combine)
    refused(found, r"Objective 'b' reaches no trainable variable.*stop_gradient")


def test_a_loss_that_is_not_a_scalar():
    loss = {**LOSSES, "b": keras.losses.MeanSquaredError(reduction=None)}
    found = compiled(loss=loss)
    refused(
        found, r"loss of objective 'b' is not a scalar. Received shape: \((16|None),.*Reduce it"
    )


def test_trainable_changed_since_compile():
    found = compiled()
    found.get_layer("trunk").trainable = False
    refused(found, r"had 8 trainable variables when it was compiled and has 6 now.*compile\(\)")


def test_number_of_objectives_changed_since_compile():
    class Growing(pt.Model):
        """Returns one output more once it is told to."""

        def __init__(self):
            super().__init__()
            self.head, self.more = layers.Dense(1), False

        def call(self, x):
            y = self.head(x)
            return {"a": y, "b": 2 * y} if self.more else {"a": y}

    found = Growing()
    found(X[:1])
    found.compile("sgd", "mse", combine="mean", run_eagerly=True)
    found.train_on_batch(X, {"a": Y["a"]})
    found.more = True
    with pytest.raises(
        ValueError, match=r"for the objectives loss; the outputs now give a, b.*compile\(\)"
    ):
        found.train_on_batch(X, {"a": Y["a"], "b": Y["b"]})


def test_reweight_needs_a_stage_and_a_known_name():
    found = compiled()
    with pytest.raises(ValueError, match=r"`combine` has none.*pt.Chain\(pt.Reweight\(\)"):
        found.reweight({"a": 1.0})
    found = compiled(combine=pt.Reweight({"a": 1.0}))
    with pytest.raises(ValueError, match=r"'aa', which is not an objective. Did you mean 'a'"):
        found.reweight({"aa": 1.0})


def test_wrap_takes_a_model():
    with pytest.raises(TypeError, match=r"wrap takes a Keras model. Received: 'model'"):
        pt.Model.wrap("model")
