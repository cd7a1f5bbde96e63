"""Phases: one after the other in a compiled step; saved, resumed, in half precision."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from joined import X, Y, counts, forward, joined, networks, sparsity
from small import arrays, fill


@keras.saving.register_keras_serializable(package="tests")
class Noise(layers.Layer):
    """As many noise vectors as there are samples."""

    def __init__(self, units: int, seed: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.seed = units, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any) -> Any:
        return keras.random.normal((ops.shape(inputs)[0], self.units), seed=self.generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "seed": self.seed}


@keras.saving.register_keras_serializable(package="tests")
def play(networks: Any, inputs: Any) -> Any:
    fake = networks["generator"](networks["noise"](inputs))
    critic = networks["critic"]
    return {"fake": fake, "of_fake": critic(fake), "of_real": critic(inputs)}


@keras.saving.register_keras_serializable(package="tests")
def tell_apart(step: Any) -> Any:
    real, fake = step.outputs["of_real"], step.outputs["of_fake"]
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


@keras.saving.register_keras_serializable(package="tests")
def fool(step: Any) -> Any:
    return ops.mean(ops.softplus(-step.outputs["of_fake"]))


def gan(phases: Any = ("critic", "generator"), every: int = 1, **settings: Any) -> pt.Model:
    def network(name: str, size: int, units: int) -> keras.Model:
        norm = (
            [layers.BatchNormalization()] if name == "generator" else [layers.Dropout(0.2, seed=1)]
        )
        steps = [keras.Input((size,)), layers.Dense(6), *norm, layers.Dense(units)]
        return keras.Sequential(steps, name=f"{name}_network")

    nets = {
        "noise": Noise(2),
        "generator": network("generator", 2, 4),
        "critic": network("critic", 4, 1),
    }
    model = fill(pt.Model(networks=nets, forward=play))
    model.compile(
        objectives=[
            pt.Objective("critic", tell_apart, trains="critic"),
            pt.Objective("generator", fool, trains="generator", every=every),
        ],
        optimizer={
            "generator": keras.optimizers.Adam(1e-2),
            "critic": keras.optimizers.Adam(2e-2, beta_1=0.5),
        },
        phases=None if phases is None else list(phases),
        **{"verbose": 0, **settings},
    )
    return model


def fitted(model: pt.Model, epochs: int = 2, **more: Any) -> dict[str, list[float]]:
    return model.fit(X, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **more).history


@pytest.mark.parametrize(
    ("phases", "every", "expected"),
    [
        (None, 1, {"generator": 8, "critic": 8}),
        (("critic", "generator"), 1, {"generator": 8, "critic": 8}),
        ((pt.Phase("critic", steps=3), "generator"), 1, {"generator": 8, "critic": 24}),
        (("critic", "generator"), 4, {"generator": 2, "critic": 8}),
    ],
)
def test_step_counts(phases: Any, every: int, expected: dict[str, int]) -> None:
    model = gan(phases, every)
    told = fitted(model)
    assert counts(model) == expected
    assert set(told) == {"loss", "critic_loss", "generator_loss"}
    assert np.isfinite(told["loss"]).all()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="its steps are traced: no values")
def test_each_phase_draws_fresh_noise() -> None:
    seen: list[Any] = []

    def note(step: Any) -> Any:
        seen.append(ops.convert_to_numpy(ops.stop_gradient(step.outputs["fake"])))
        return fool(step)

    model = gan()
    given = [pt.Objective("critic", note, trains="critic"), pt.Objective("generator", note)]
    phases = [pt.Phase("critic", steps=2), "generator"]
    model.compile(objectives=given, optimizer="sgd", phases=phases, run_eagerly=True, verbose=0)
    model.train_on_batch(X)
    first, second, third = seen[-3:]
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)


def test_a_phase_starts_from_what_the_one_before_has_updated() -> None:
    names = {"sparsity": "encoder", "image": "decoder"}
    given = [
        pt.Objective("image", "mse", trains="decoder"),
        pt.Objective("sparsity", sparsity, trains="encoder"),
    ]
    parts = {"encoder": keras.optimizers.SGD(0.2), "decoder": keras.optimizers.SGD(0.1)}
    model, by_hand = (fill(pt.Model(networks=networks(), forward=forward)) for _ in range(2))
    for network in (model, by_hand):
        network.networks["head"].trainable = False
    model.compile(objectives=given, optimizer=parts, phases=["sparsity", "image"], verbose=0)
    model.train_on_batch(X, Y)
    for name, rate in (("sparsity", 0.2), ("image", 0.1)):
        for network in ("encoder", "decoder"):
            by_hand.networks[network].trainable = network == names[name]
        one = [objective for objective in given if objective.name == name]
        by_hand.compile(objectives=one, optimizer=keras.optimizers.SGD(rate), verbose=0)
        by_hand.train_on_batch(X, Y)
    for a, b in zip(*map(weights, (model, by_hand)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def weights(model: pt.Model) -> list[Any]:
    return [array for network in model.networks.values() for array in arrays(network.variables)]


def state(model: pt.Model) -> list[Any]:
    return arrays([*model.variables, *model.optimizer.variables])


@pytest.mark.parametrize("combine", ["sum", "dwa"])
def test_a_gan_resumes_bit_for_bit(tmp_path: Path, combine: str) -> None:
    model = gan((pt.Phase("critic", steps=2), "generator"), every=3, combine=combine)
    fitted(model, 1)
    model.save(tmp_path / "gan.keras")
    fitted(model, 1)
    again = keras.models.load_model(tmp_path / "gan.keras")
    assert len(state(again)) == len(state(model))
    fitted(again, 1)
    assert counts(again) == counts(model)
    for a, b in zip(state(again), state(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shared_layers_are_not_saved_as_two(tmp_path: Path) -> None:
    shared = layers.Dense(3)
    nets = {
        "one": keras.Sequential([keras.Input((4,)), shared, layers.Dense(1)]),
        "two": keras.Sequential([keras.Input((4,)), shared, layers.Dense(1)]),
    }
    model = pt.Model(networks=nets)
    given = [pt.Objective("one", "mse", target="label"), pt.Objective("two", "mae", target="label")]
    model.compile(objectives=given, optimizer="adam", combine="upgrad", verbose=0)
    model.fit(X, {"label": Y["label"]}, verbose=0)
    assert len(model.trainable_variables) == 6
    with pytest.raises(ValueError, match=r"'one' and 'two' share the variable .* entry of its own"):
        model.save(tmp_path / "shared.keras")
    with pytest.raises(ValueError, match="Two optimizers, 'one' and 'two', for the variable"):
        model.compile(objectives=given, optimizer={"one": "sgd", "two": "adam"}, verbose=0)


def test_half_precision_and_several_optimizers() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = joined(
            optimizer={"encoder": keras.optimizers.Adam(1e-2), "*": keras.optimizers.Adam(1e-2)},
            combine="upgrad",
        )
        told = model.fit(X, Y, batch_size=8, epochs=6, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert told["loss"][-1] < told["loss"][0]
    inner = model.optimizer.inner_optimizer
    assert 0 < int(ops.convert_to_numpy(inner["encoder"].iterations)) <= 24
