"""`pt.Model(...)`: what it takes can be read off it, and what it does not take is refused."""

import inspect
import json
from pathlib import Path
from typing import Any

import keras
import pytest

import polytape as pt
from fresh import ROOT, fresh

pytestmark = pytest.mark.engine

NAMES = ["inputs", "outputs", "networks", "forward", "name", "trainable"]
NAMES += ["dtype", "autocast", "activity_regularizer"]


def tensors() -> tuple[Any, Any]:
    inputs = keras.Input((2,), name="x")
    hidden = keras.layers.Dense(2, name="trunk")(inputs)
    return inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in "ab"}


def networks() -> dict[str, Any]:
    return {"a": keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])}


class Plain(pt.Model):
    """No constructor of its own."""


def test_arguments_are_named() -> None:
    for cls in (pt.Model, Plain):
        assert list(inspect.signature(cls).parameters) == NAMES


REFUSED = {
    "inputs alone": (lambda: pt.Model(keras.Input((2,))), r"Received: inputs\."),
    "outputs alone": (lambda: pt.Model(outputs=3), r"Received: outputs\."),
    "inputs alone, of a subclass": (
        lambda: Plain(keras.Input((2,))),
        r"Plain\(\.\.\.\) takes .*Received: inputs\.",
    ),
    "forward alone": (lambda: pt.Model(forward=len), r"Received: forward\."),
    "both": (
        lambda: pt.Model(*tensors(), networks=networks()),
        r"Received: inputs, outputs, networks\.",
    ),
    "networks of a subclass": (
        lambda: Plain(networks=networks()),
        r"networks= is of pt\.Model itself, and Plain is a subclass.*as attributes, made in its",
    ),
    "a typo": (lambda: pt.Model(netwroks=networks()), "netwroks"),
    "a typo beside networks": (lambda: pt.Model(networks=networks(), nam="m"), "nam"),
    "a typo beside tensors": (
        lambda: pt.Model(*tensors(), nam="m"),
        r"no argument 'nam'. Did you mean 'name'\? .*name, trainable",
    ),
    "of compile": (
        lambda: pt.Model(*tensors(), combine="upgrad"),
        r"no argument 'combine'\. .*model\.compile\(combine=\.\.\.\)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_go_together(what: str) -> None:
    call, text = REFUSED[what]
    with pytest.raises(TypeError, match=text):
        call()


def test_arguments_are_what_they_are_in_keras() -> None:
    inputs, outputs = tensors()
    frozen = pt.Model(inputs=inputs, outputs=outputs, name="frozen", trainable=False)
    assert (frozen.name, frozen.trainable_variables) == ("frozen", [])
    inputs, outputs = tensors()
    outputs["a"]._keras_history[0].trainable = False
    assert len(pt.Model(inputs, outputs).trainable_variables) == 4  # left as it was
    settings = {"name": "half", "trainable": False, "dtype": "float16", "autocast": False}
    of_networks = pt.Model(networks=networks(), **settings)
    for made in (pt.Model(**settings), Plain(**settings), of_networks):
        found = (made.name, made.trainable, made.compute_dtype, made.autocast)
        assert found == ("half", False, "float16", False)
        assert isinstance(made, pt.Model)


HOMES = [str(ROOT / "tests" / name) for name in ("", "helpers", "users")]
OWN = f"import sys; sys.path += {HOMES!r}\n"
WRITE = "import test_model_signature as own; own.Kept(*own.tensors(), name='kept').save({path!r})"
READ = """
import json, keras, test_model_signature as own
found = keras.models.load_model({path!r})
print(json.dumps([type(found).__name__, found.name, sorted(found.output), len(found.variables)]))
"""


@keras.saving.register_keras_serializable(package=__name__)
class Kept(pt.Model):
    """A subclass that is used functionally."""


def test_a_functional_subclass_is_loaded_where_it_was_not_made(tmp_path: Path) -> None:
    """Keras knows one by the signature of its constructor, which differs between versions."""
    path = str(tmp_path / "kept.keras")
    fresh(OWN + WRITE.format(path=path))
    told = json.loads(fresh(OWN + READ.format(path=path)).splitlines()[-1])
    assert told == ["Kept", "kept", ["a", "b"], 6]


def test_a_functional_config_of_the_class_itself() -> None:
    config = pt.Model(*tensors(), name="m").get_config()
    found = pt.Model.from_config(config)
    assert isinstance(found, pt.Model)
    assert (found.name, sorted(found.output)) == ("m", ["a", "b"])
