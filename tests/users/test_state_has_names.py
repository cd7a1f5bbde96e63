"""The arrays that methods keep have the names of method and field, in memory and in files."""

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from test_state_is_found_again import of_objectives, state, trained

import polytape as pt
from polytape.aggregation.naming import names_of
from polytape.catalogue import catalogue

pytestmark = pytest.mark.engine

BEFORE = json.loads((Path(__file__).parent / "states_with_numbers.json").read_text("utf-8"))


def paths(model: pt.Model) -> set[str]:
    return {variable.path for variable in model.method_state.variables}


def test_variables_are_named_by_method_and_field() -> None:
    logs = {f"logs/{name}" for name in ("value", "moments/mean", "moments/root", "moments/seen")}
    own = {f"method/gradnorm/{name}" for name in (*logs, "start", "seen")}
    assert paths(trained("gradnorm")) == own
    nested = trained(pt.Chain(pt.Reweight(), pt.Smoothed(pt.PerVariable(pt.GradVac()))))
    assert paths(nested) == {
        "method/reweight/reweight",
        "method/smoothed/pervariable/gradvac/targets",
        "method/smoothed/weights",
        "method/smoothed/seen",
    }


def test_equal_methods_are_numbered_and_networks_named() -> None:
    twice = pt.Chain(pt.Smoothed(pt.Normalize()), pt.Smoothed(pt.MGDA()))
    names, fields = ("smoothed", "smoothed_2"), ("weights", "seen")
    assert paths(trained(twice)) == {f"method/{name}/{f}" for name in names for f in fields}
    apart = trained({"trunk": "gradvac", "*": "gradvac"})
    assert paths(apart) == {
        "method/pernetwork/trunk/gradvac/targets",
        "method/pernetwork/others/gradvac/targets",
    }


def test_a_memory_is_named_by_the_variable() -> None:
    found = trained("moco")
    expected = {f"method/memory/total/{v.path}" for v in found.trainable_variables}
    assert expected < paths(found)
    assert {"method/moco/seen", "method/moco/weights"} == paths(found) - expected


def test_the_variables_of_a_combiner() -> None:
    w = keras.Variable([1.0, 2.0], name="w")
    combiner = pt.Combiner("gradvac", name="mine")
    combiner.prepare(["a", "b"], [w])
    assert [v.path for v in combiner.variables] == ["mine/steps", "mine/gradvac/targets"]
    assert combiner.trainable_variables == []


@pytest.mark.parametrize("name", catalogue())
def test_no_array_of_any_method_is_without_a_name(name: str) -> None:
    cls = catalogue()[name]
    try:
        method = cls()
    except (TypeError, ValueError):
        method = cls(pt.UPGrad())
    initial = {"combination": method.init(("a", "b"))}
    for place, named in names_of(initial, None, method, ()).items():
        assert not any(part.isdigit() for part in named), (place, named)
        assert named[-1] != "state", "give the array a name: init returns a dict"


def test_files_have_names_too(tmp_path: Path) -> None:
    trained("gradvac").save_weights(tmp_path / "one.weights.h5")
    of_objectives(phases=["a", "b"]).save_weights(tmp_path / "two.weights.h5")
    assert keys_in(tmp_path / "one.weights.h5") == {"signature", "method.gradvac.targets"}
    keys = keys_in(tmp_path / "two.weights.h5")
    assert {"signature", "clock", "method.phase_1.reweight.reweight"} < keys
    assert not any(key.isdigit() for key in keys)


def keys_in(path: Path) -> set[str]:
    """What a file holds of the state of methods."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visit(found.append)
    place = next(name for name in found if name.endswith("/signature")).removesuffix("signature")
    return {name.removeprefix(place) for name in found if name.startswith(place)}


# ------------------------------------------------------------------ files with numbers


def stored(name: str) -> dict[str, Any]:
    """What a store held when arrays had numbers, as Keras hands it to a layer."""
    found = BEFORE[name]
    signature = json.dumps(found["signature"]).encode()
    arrays = {k: np.array(v[1], v[0]) for k, v in found.items() if k != "signature"}
    return {**arrays, "signature": np.frombuffer(signature, "uint8")}


def compiled(name: str) -> pt.Model:
    if name == "phases":
        return of_objectives(phases=["a", "b"], seed=2)
    return trained(None if name == "chain" else name, seed=2)


@pytest.mark.parametrize("name", sorted(set(BEFORE) - {"combiner"}))
def test_files_from_when_arrays_had_numbers(name: str) -> None:
    found, store = compiled(name), stored(name)
    before = state(found)
    for variable in found.method_state.variables:
        variable.assign(ops.zeros_like(variable.value))
    found.method_state.load_own_variables(store)
    after = state(found)
    assert set(after) == set(before)
    keys = [key for each in BEFORE[name]["signature"]["states"] for key in each["arrays"]]
    # Rows lay flat at that time, (T, n), and in files still do.
    flat = [np.ravel(value).tolist() for value in after.values()]
    assert flat == [np.ravel(BEFORE[name][key][1]).tolist() for key in keys]


def test_a_combiner_from_when_arrays_had_numbers() -> None:
    w = keras.Variable([1.0, 2.0])
    combiner = pt.Combiner("gradvac")
    combiner.prepare(["a", "b"], [w])
    combiner.load_own_variables(stored("combiner"))
    steps, targets = (ops.convert_to_numpy(v.value).tolist() for v in combiner.variables)
    assert (steps, targets) == (1, BEFORE["combiner"]["1"][1])
