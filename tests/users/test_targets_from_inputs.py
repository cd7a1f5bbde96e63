"""An input as the target: `fit(x)` of an autoencoder, without `y`."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from small import fill

pytestmark = pytest.mark.engine

X = np.random.default_rng(7).normal(size=(8, 3)).astype("float32")
QUICK: dict[str, Any] = {"run_eagerly": True, "verbose": 0}


def image(**options: Any) -> pt.Objective:
    return pt.Objective("image", "mse", **{"target": pt.FromInput(), **options})


def autoencoder(key: str | None = "image") -> pt.Model:
    inputs = keras.Input((3,), name="x")
    code = keras.layers.Dense(2, name="code")(inputs)
    restored = keras.layers.Dense(3, name="image")(code)
    return fill(pt.Model(inputs, {key: restored, "code": code} if key else restored))


def error(model: pt.Model) -> float:
    outputs = model.predict(X, verbose=0)
    return float(np.mean((outputs["image"] - X) ** 2))


def test_an_autoencoder_is_trained_without_targets() -> None:
    named, plain = autoencoder(), autoencoder()
    named.compile("sgd", objectives=[image()], metrics={"image": ["mae"]}, **QUICK)
    plain.compile("sgd", objectives=[pt.Objective("image", "mse")], **QUICK)
    history = named.fit(X, batch_size=4, shuffle=False, validation_data=(X,), verbose=0).history
    plain.fit(X, {"image": X}, batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(named.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)))
    assert history["val_image_loss"][0] == pytest.approx(error(named), rel=1e-5)
    outputs = named.predict(X, verbose=0)["image"]
    assert history["val_mae"][0] == pytest.approx(np.abs(outputs - X).mean(), rel=1e-5)
    found = named.evaluate(X, verbose=0, return_dict=True)
    assert found["image_loss"] == pytest.approx(error(named), rel=1e-5)
    assert "●" in named.routing_table(X)


def test_compiled_and_one_output_alone() -> None:
    model = autoencoder(None)
    model.compile("sgd", objectives=[image()], metrics=["mae"], verbose=0)
    history = model.fit(X, epochs=3, verbose=0).history
    assert history["image_loss"][0] > history["image_loss"][-1]
    assert history["mae"][-1] > 0


def two(networks: Any, x: Any) -> dict[str, Any]:
    code = networks["encoder"](x["views"][0])
    return {"first": networks["first"](code), "second": networks["second"](code), "label": code}


def dense(units: int, size: int) -> keras.Sequential:
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(units)])


def joined() -> pt.Model:
    networks = {"encoder": dense(1, 3), "first": dense(3, 1), "second": dense(2, 1)}
    return pt.Model(networks=networks, forward=two)


VIEWS = {"views": [X, X[:, :2]], "weight": X[:, :1]}


def test_one_of_several_inputs_beside_targets() -> None:
    model = joined()
    given = [
        pt.Objective("first", "mse", target=pt.FromInput("views/0")),
        pt.Objective("second", "mae", target=pt.FromInput("views/1")),
        pt.Objective("label", "mse"),
    ]
    model.compile("sgd", objectives=given, combine="upgrad", metrics={"second": ["mae"]}, **QUICK)
    y = {"label": X[:, 2:]}
    expected = model.predict(VIEWS, verbose=0)
    found = model.evaluate(VIEWS, y, verbose=0, return_dict=True)
    assert found["first_loss"] == pytest.approx(np.mean((expected["first"] - X) ** 2), rel=1e-5)
    right = np.mean(np.abs(expected["second"] - X[:, :2]))
    assert found["second_loss"] == pytest.approx(right, rel=1e-5)
    assert found["second_mae"] == pytest.approx(right, rel=1e-5)
    assert np.isfinite(model.fit(VIEWS, y, verbose=0).history["label_loss"][0])


def test_samples_are_weighted_by_the_name_of_the_output() -> None:
    model = autoencoder()
    model.compile("sgd", objectives=[image()], **QUICK)
    weight = {"image": np.arange(8, dtype="float32")}
    outputs = model.predict(X, verbose=0)["image"]
    found = model.test_on_batch(X, sample_weight=weight, return_dict=True)
    right = np.mean(np.mean((outputs - X) ** 2, axis=1) * weight["image"])
    assert found["image_loss"] == pytest.approx(right, rel=1e-5)


def test_it_is_saved_with_the_model(tmp_path: Path) -> None:
    model = autoencoder()
    model.compile("sgd", objectives=[image(target=pt.FromInput("x"))], **QUICK)
    model.fit(X, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.compilation.settings.objectives.given["image"].target == pt.FromInput("x")
    assert again.evaluate(X, verbose=0) == pytest.approx(model.evaluate(X, verbose=0))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, r"got no targets. Give `y`; target=pt.FromInput\(\) if the target is an input"),
        (pt.FromInput(), r"the only input, and there are several: 'views', 'weight'. Say which"),
        (
            pt.FromInput("view"),
            r"asks for the input 'view', which is not there. Did you mean 'views'\?.*"
            r"target=pt.FromInput\(...\)",
        ),
        (pt.FromInput("views"), r"the input 'views' holds several. Name one"),
        (
            pt.FromInput("views/first"),
            r"asks for the input 'views/first', which is not there",
        ),
    ],
)
def test_told_clearly(target: Any, told: str) -> None:
    model = joined()
    given = [pt.Objective("first", "mse", target=target)]
    given += [pt.Objective(name, lambda step: ops.mean(step.outputs["second"])) for name in "s"]
    model.compile("sgd", objectives=given, **QUICK)
    with pytest.raises(ValueError, match=told):
        model.fit(VIEWS, verbose=0)


def test_wrong_keys_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"pt.FromInput takes the name or the place of an input"):
        pt.FromInput(keras.Input((3,)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`target` is the name of an entry.*pt.FromInput"):
        pt.Objective("image", "mse", target=keras.Input((3,)))
    with pytest.raises(TypeError, match=r"`output` is the name of an entry"):
        pt.Objective("image", "mse", output=pt.FromInput())
