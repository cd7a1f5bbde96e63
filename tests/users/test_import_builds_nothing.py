"""`import polytape` builds nothing, and registers its classes in whatever order it is imported."""

import functools
import json
from typing import Any

import keras
import pytest

import polytape as pt
from fresh import fresh
from small import LOSSES, data, model

pytestmark = pytest.mark.engine
KINDS = ("functional", "wrapped", "networks")
ORDERS = (
    "import keras, polytape",
    "import polytape, keras",
    "import polytape; polytape.UPGrad(); import keras",  # polytape itself asks for Keras
    "import polytape.catalogue; import keras",
)


@pytest.mark.parametrize("first", ["keras", "polytape"])
def test_nothing_of_keras_is_built(first: str) -> None:
    """No layer, variable or symbolic tensor: whoever makes one is caught in the act."""
    code = f"""
import sys
def catch():
    import keras
    def refuse(*args, **kwargs):
        raise AssertionError("something was built at import")
    for cls in (keras.Layer, keras.Model, keras.Variable, keras.KerasTensor):
        cls.__init__ = refuse
class EpochReport:  # imported in the place of whoever registers after Keras
    def find_spec(self, name, path=None, target=None):
        if name == "polytape.training" and "keras" in sys.modules:
            sys.meta_path.remove(self)
            catch()
sys.meta_path.insert(0, EpochReport())
import {first}
import keras, polytape
[getattr(polytape, name) for name in dir(polytape)]
try:
    keras.Input((1,))
except AssertionError:
    print("watched")
"""
    assert fresh(code).strip() == "watched"


def test_floatx_set_after_the_import_is_honoured() -> None:
    code = """
import keras, polytape
[getattr(polytape, name) for name in dir(polytape)]
keras.config.set_floatx("float64")
inputs = keras.Input((3,))
model = polytape.Model(inputs, keras.layers.Dense(2)(inputs))
print(inputs.dtype, *(weight.dtype for weight in model.weights), polytape.Features().dtype)
"""
    assert fresh(code).split() == ["float64"] * 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of a functional, a wrapped and a model of several networks, with a method each."""
    folder = tmp_path_factory.mktemp("saved")
    sequential = keras.Sequential([keras.layers.Dense(2)])
    network = keras.Sequential([keras.Input((4,)), pt.Features(), keras.layers.Dense(1)])
    models = dict(
        zip(
            KINDS,
            (model(), pt.Model.wrap(sequential), pt.Model(networks={"a": network})),
            strict=True,
        )
    )
    x, y = data(8)
    models["functional"].compile("sgd", LOSSES, combine=pt.Chain(pt.Normalize(), pt.UPGrad()))
    models["functional"].train_on_batch(x, y)
    models["wrapped"](x)
    paths = {name: folder / f"{name}.keras" for name in models}
    for name, path in paths.items():
        models[name].save(path)
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(params=ORDERS)
def seen(request: pytest.FixtureRequest, saved: dict[str, str]) -> dict[str, Any]:
    """What a fresh process meets that imports in this order; such a process is asked once."""
    return found_by(request.param, *saved.values())


@functools.cache
def found_by(first: str, *paths: str) -> dict[str, Any]:
    code = f"""
{first}
import json, pkgutil
from importlib import import_module

def registered():
    return {{name for name in keras.saving.get_custom_objects() if name.startswith("polytape>")}}

at_import = registered()
loaded = {{name: keras.models.load_model(path) for name, path in zip({[*KINDS]!r}, {paths!r})}}
ours = [isinstance(model, polytape.Model) for model in loaded.values()]
for module in pkgutil.walk_packages(polytape.__path__, "polytape."):
    if ".engines." not in module.name and ".__main__" not in module.name:
        import_module(module.name)
print(json.dumps({{
    "types": {{name: type(model).__name__ for name, model in loaded.items()}},
    "ours": ours,
    "method": type(loaded["functional"].compilation.settings.method).__name__,
    "at import": len(at_import),
    "later": sorted(registered() - at_import),
}}))
"""
    return json.loads(fresh(code))


def test_saved_models_are_found_in_any_order(seen: dict[str, Any]) -> None:
    types = {"functional": "FunctionalModel", "wrapped": "Wrapped", "networks": "Networks"}
    assert seen["types"] == types
    assert seen["ours"] == [True] * 3
    assert seen["method"] == "Chain"


def test_every_class_that_keras_saves_is_registered_by_the_import(seen: dict[str, Any]) -> None:
    assert seen["at import"] > 50
    assert seen["later"] == []


def test_keras_is_imported_as_if_nobody_waited_for_it() -> None:
    """Looking for Keras does not import it; afterwards no finder of ours is left."""
    code = """
import sys, polytape
from importlib.util import find_spec
assert find_spec("keras").name == "keras"
assert "keras" not in sys.modules
import keras
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("polytape")]
import keras.layers
from keras import ops
print(keras.__spec__.name, keras.__spec__.loader.get_source("keras") is not None)
"""
    assert fresh(code).split() == ["keras", "True"]
