"""Every pattern trains, updates what it should, and ends where it says.

Those without random numbers in the step make the same history on every backend. `patterns.json` was
computed once, from weights of a seeded NumPy generator, by

    KERAS_BACKEND=tensorflow PYTHONPATH=tests/helpers python tests/examples/test_patterns.py
"""

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "patterns"
FILE = Path(__file__).with_name("patterns.json")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
WITH_NOISE = {"adversarial_autoencoder", "gan", "wgan_gp"}
PRETRAINED = {"upper_first", "upper_second", "lower_first", "lower_second"}
COMPARED = 2  # epochs; later ones drift apart as rounding differs


@dataclass
class Run:
    """A pattern that was trained: before and after, {path: array}."""

    model: Any
    found: dict[str, Any]
    before: dict[str, np.ndarray]
    steps: int

    @property
    def history(self) -> dict[str, list[float]]:
        return self.model.history.history

    def moved(self, network: str) -> dict[str, bool]:
        """For every weight of a network or layer, whether it changed."""
        return {
            variable.path: not np.array_equal(self.before[variable.path], array(variable))
            for variable in self.model.columns[network].weights
        }

    def updates(self, name: str) -> int:
        return int(array(self.model.optimizer[name].iterations))

    def falls(self, name: str, to: float) -> bool:
        """Whether a loss ends below a share of what it was in the first epoch."""
        values = self.history[f"{name}_loss"]
        return values[-1] < to * values[0]


def array(variable: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable))


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"patterns_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def fill(model: Any) -> None:
    """Kernels of a seeded NumPy generator, as large as Keras would make them."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        pretrained = any(name in variable.path for name in PRETRAINED)
        if len(variable.shape) > 1 and not pretrained:
            embedding = variable.path.endswith("embeddings")
            fan_in = 400 if embedding else np.prod(variable.shape[:-1])
            variable.assign(rng.normal(size=variable.shape) / np.sqrt(fan_in))


def energy_distance(one: np.ndarray, other: np.ndarray, count: int = 500) -> float:
    """Of two samples of points, (N, 2): 0 if they have the same distribution."""

    def apart(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.linalg.norm(first[:count, None] - second[None, :count], axis=-1).mean())

    return 2 * apart(one, other) - apart(one, one) - apart(other, other)


@cache
def trained(name: str, epochs: int | None = None) -> Run:
    """A pattern's own `main`, on filled weights and in the order of its data."""
    pattern, kept = module(name), {}
    build = pattern.build

    def filled() -> tuple[Any, dict[str, Any]]:
        model, data = build()
        fill(model)
        kept.update(model=model, before={v.path: array(v) for v in model.variables})
        return model, {**data, "shuffle": False}

    pattern.build = filled
    found = pattern.main() if epochs is None else pattern.main(epochs)
    model = kept["model"]
    steps = model.history.params["steps"] * model.history.params["epochs"]
    return Run(model, found, kept["before"], steps)


@pytest.mark.parametrize("name", NAMES)
def test_readme_has_it(name: str) -> None:
    assert f"[{name}]({name}.py)" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_reads_as_documentation(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 95
    assert module(name).__doc__


@pytest.mark.parametrize("name", sorted({*NAMES} - WITH_NOISE))
def test_same_on_every_backend(name: str) -> None:
    expected, found = json.loads(FILE.read_text())[name], trained(name).history
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key][:COMPARED], values, rtol=1e-4, err_msg=key)


def test_multi_head() -> None:
    run = trained("multi_head")
    assert all(run.falls(name, to=0.6) for name in ("digit", "image", "ink"))
    assert run.found["digit_accuracy"] > 0.85


def test_sparse_autoencoder() -> None:
    run = trained("sparse_autoencoder")
    assert run.found["error"] < 0.01
    assert run.found["units on"] < 0.45
    atoms = run.model.networks["decoder"].get_weights()[0]
    assert np.linalg.norm(atoms, axis=1).max() < 1 + 1e-5
    assert run.updates("encoder") == run.updates("decoder") == run.steps


def test_adversarial_autoencoder() -> None:
    run = trained("adversarial_autoencoder")
    assert run.found["error"] < 0.058  # 0.073 is the variance of the images
    assert np.abs(run.found["code mean"]).max() < 0.6
    assert run.found["code deviation"].min() > 0.6  # no collapse
    assert run.found["code deviation"].max() < 1.5
    assert run.updates("discriminator") == run.updates("*") == run.steps


def test_gan() -> None:
    run = trained("gan")
    assert run.found["off the ring"] < 0.4  # about 0.9 before
    assert run.found["rarest quadrant"] > 0.05
    assert run.updates("generator") == run.updates("discriminator") == run.steps
    assert all(run.moved("generator").values())
    assert all(run.moved("discriminator").values())


def test_noise_is_fresh_in_every_phase() -> None:
    """A seed's counter advances with each draw: one in each of the phases' forward passes."""
    for name, passes, draws in (("gan", 2, 1), ("wgan_gp", 4, 2)):
        run = trained(name)
        seed = run.model.networks["noise"].seeds.state
        drawn = array(seed)[1] - run.before[seed.path][1]
        assert drawn >= run.steps * passes * draws


def test_wgan_gp() -> None:
    run = trained("wgan_gp")
    assert 0.8 < run.found["steepness"] < 1.2
    moons = module("wgan_gp").build()[1]["x"]
    assert energy_distance(run.found["points"], moons) < 0.45  # 0.65 before
    assert run.updates("critic") == 3 * run.updates("generator") == 3 * run.steps


def test_smooth_features() -> None:
    run = trained("smooth_features")
    assert run.falls("signal", to=0.4)
    assert run.falls("smoothness", to=0.4)
    assert run.found["signal_loss"] < 0.1  # 0.25 is the variance of the noise
    assert all(run.moved("first").values())


def test_multimodal() -> None:
    run = trained("multimodal")
    assert run.found["all"] > 0.8
    assert min(run.found.values()) > 0.5  # 0.1 is chance
    assert np.isfinite(np.concatenate([*run.history.values()])).all()
    assert run.updates("rows") == run.updates("*") == run.steps
    for network in run.model.networks:
        assert all(run.moved(network).values())


def test_distillation() -> None:
    run = trained("distillation")
    assert run.found["student"] > 0.9
    assert not any(run.moved("teacher").values())
    assert all(run.moved("student").values())


def test_recommender() -> None:
    run = trained("recommender")
    assert run.found["click"] > 0.75  # 0.5 is chance
    assert run.found["buy"] > 0.75
    assert run.updates("*_embedding/*") == run.updates("*") == run.steps


def test_pinn() -> None:
    assert trained("pinn").found["largest error"] < 0.03  # the solution is of size 1


def test_two_towers() -> None:
    run = trained("two_towers")
    assert run.found["found"] > 0.5  # 0.05 is chance
    assert run.updates("upper") == run.updates("lower") == run.steps
    frozen = [path for path, moved in run.moved("upper").items() if not moved]
    assert frozen == ["upper/upper_first/kernel", "upper/upper_first/bias"]
    assert all(run.moved("lower").values())


if __name__ == "__main__":
    chosen = [name for name in NAMES if name not in WITH_NOISE]
    histories = {name: trained(name, COMPARED).history for name in chosen}
    FILE.write_text(json.dumps(histories, indent=1) + "\n")
