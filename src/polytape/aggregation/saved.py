"""A method's state in a file: every array by its name, beside what it is the state of.

A file holds one record, JSON in the array "signature": for each state its owner and the places of
its arrays, which lie beside it under running numbers.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from polytape.aggregation.state import Path, StateVariables
from polytape.contract import Method

RECORD = "signature"
CLOCK = "clock"
LAYOUT = 2  # of the file: the one before had no names and no number
REMEDY = (
    "To resume, compile as it was when the file was written. To take the weights and start the "
    "method afresh: load_weights(path, skip_mismatch=True), or "
    "keras.models.load_model(path, compile=False) and then compile()."
)
Found = dict[Path, np.ndarray]


@dataclass(frozen=True)
class Owner:
    """What a state belongs to: it fits wherever all of this is the same.

    objectives  in order;  method, private  as they were given
    weights     of the objectives, {name: number, config of a schedule, None for a variable}
    trained     places of the trained variables among all of the model, if the state has arrays
                for each of them
    """

    objectives: tuple[str, ...]
    method: Method
    private: str
    weights: Mapping[str, Any] | None = None
    trained: Sequence[int] | None = None

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        found = {
            "objectives": self.objectives,
            "method": keras.saving.serialize_keras_object(self.method),
            "private": self.private,
            "weights": self.weights,
            "trained": self.trained,
        }
        return dict(json.loads(json.dumps(found)))


@dataclass(frozen=True)
class StateStore:
    """States with their owners, and the count of steps () that goes with them, if there is one."""

    states: Sequence[tuple[Owner, StateVariables]]
    clock: Any = None

    @property
    def variables(self) -> list[Any]:
        clock = [] if self.clock is None else [self.clock]
        return [*clock, *(v for _, state in self.states for v in state.variables)]

    def save(self, store: Any) -> None:
        """Write all of it; nothing if there are no variables."""
        if not self.variables:
            return
        record: dict[str, Any] = {"layout": LAYOUT, "clock": False, "states": []}
        if self.clock is not None:
            record["clock"] = CLOCK
            store[CLOCK] = self.clock
        for owner, state in self.states:
            # Not with a slash, by which HDF5 makes a group that Keras does not look into.
            keys = {".".join(state.names[place]): place for place in state.named_variables}
            for key, place in keys.items():
                store[key] = _as_saved(place, state.named_variables[place])
            record["states"].append({**owner.record(), "arrays": keys})
        store[RECORD] = np.frombuffer(json.dumps(record).encode(), "uint8")

    def load(self, saved: "Saved") -> None:
        """Take over a saved state; nothing is changed if it is another's."""
        saved.check([owner for owner, _ in self.states], self.clock is not None)
        pairs = [] if self.clock is None else [(self.clock, saved.clock)]
        for owner, state in self.states:
            found = fitting(saved.arrays(owner), state.named_variables)
            pairs += [(variable, found[path]) for path, variable in state.named_variables.items()]
        for variable, value in pairs:
            variable.assign(value)


class Saved:
    """A state as it was found in a file."""

    def __init__(self, record: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._record, self._arrays = record, arrays

    @classmethod
    def read(cls, store: Any) -> "Saved | None":
        """What the store holds; None if that is no state of a method.

        ValueError if it was written before states had names.
        """
        found = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        if RECORD not in found:
            return None
        record = json.loads(found[RECORD].tobytes().decode())
        if record.get("layout") != LAYOUT:
            raise ValueError(
                "The file holds the state of a method without names, as earlier versions wrote it; "
                "the order of its arrays depended on the backend, so it cannot be told which is "
                f"which. {REMEDY}"
            )
        keys = [key for state in record["states"] for key in state["arrays"]]
        if record["clock"] is True:
            record["clock"] = "0"  # as it was called when arrays had numbers
        kept = [RECORD, *keys, *([record["clock"]] if record["clock"] else [])]
        return cls(record, {key: found[key] for key in kept})

    def save(self, store: Any) -> None:
        """Write it as it came."""
        for key, array in self._arrays.items():
            store[key] = array

    @property
    def clock(self) -> np.ndarray:
        """() the count of steps."""
        return self._arrays[self._record["clock"]]

    def arrays(self, owner: Owner) -> Found:
        """The arrays of one of the owners, after `check`."""
        state = self._of(owner.objectives)
        return {tuple(path): self._arrays[key] for key, path in state["arrays"].items()}

    def check(self, owners: Sequence[Owner], clock: bool) -> None:
        """Raise ValueError unless these are the owners of what was saved."""
        saved = {tuple(state["objectives"]) for state in self._record["states"]}
        same = saved == {owner.objectives for owner in owners}
        same = same and clock == bool(self._record["clock"])
        if same and all(_same(self._of(o.objectives), o.record()) for o in owners):
            return
        raise ValueError(
            f"The checkpoint holds the state of another method. Saved: {self.described()}. "
            f"Compiled: {_described([owner.record() for owner in owners], clock)}. {REMEDY}"
        )

    def described(self) -> str:
        """The owners, in words."""
        return _described(self._record["states"], bool(self._record["clock"]))

    def _of(self, objectives: tuple[str, ...]) -> dict[str, Any]:
        states = self._record["states"]
        return dict(next(s for s in states if tuple(s["objectives"]) == objectives))


def fitting(saved: Found, known: Mapping[Path, Any]) -> Found:
    """The saved arrays by the places of those that are known; ValueError unless all fit.

    Where a method kept a single array, earlier versions gave it no name of its own.
    """
    arrays = dict(saved)
    for place in known:
        if place[:1] == ("last",) and ("look", *place[1:]) in arrays:  # as it was called once
            arrays[place] = arrays.pop(("look", *place[1:]))
        if place not in arrays and place[:-1] in arrays:
            arrays[place] = arrays.pop(place[:-1])
        if place[:1] == ("memory",) and place in arrays:
            shape = tuple(np.shape(known[place]))
            if arrays[place].shape == (shape[0], math.prod(shape[1:])):
                arrays[place] = arrays[place].reshape(shape)
    found = {"/".join(path): array.shape for path, array in arrays.items()}
    expected = {"/".join(path): tuple(np.shape(array)) for path, array in known.items()}
    names = sorted({*found, *expected})
    other = [name for name in names if found.get(name) != expected.get(name)]
    if other:
        name = other[0]
        raise ValueError(
            f"The checkpoint holds a method's state of other arrays: {name!r} has the shape "
            f"{found.get(name, 'none: it is missing')} in the file and "
            f"{expected.get(name, 'none: there is no such array')} here "
            f"({len(other)} of {len(names)} differ). Arrays follow the number of objectives and "
            f"the shapes of the trained variables: were layers changed or frozen? {REMEDY}"
        )
    return arrays


def _as_saved(place: Path, variable: Any) -> Any:
    """The array of a variable as it lies in a file: of a memory (T, n) for each variable."""
    if place[:1] != ("memory",):
        return variable
    return np.reshape(keras.ops.convert_to_numpy(variable), (variable.shape[0], -1))


def _same(saved: Mapping[str, Any], compiled: Mapping[str, Any]) -> bool:
    known = {**saved, "method": _renewed(saved["method"])}
    return all(_bare(known[key]) == _bare(compiled[key]) for key in compiled)


def _renewed(config: dict[str, Any]) -> Any:
    """The config of a method as this version writes it: fields that it did not have are added."""
    if keras.saving.get_registered_object(config["registered_name"]) is None:
        return config  # of a method that is unknown here, and so another one
    method = keras.saving.deserialize_keras_object(config)
    return json.loads(json.dumps(keras.saving.serialize_keras_object(method)))


def _bare(config: Any) -> Any:
    """A config without the modules of its classes, which may move."""
    if isinstance(config, Mapping):
        return {
            key: _bare(item)
            for key, item in config.items()
            if not (key in ("module", "shared_object_id") and "class_name" in config)
        }
    if isinstance(config, (list, tuple)):
        return [_bare(item) for item in config]
    return config


def _described(states: Iterable[Mapping[str, Any]], clock: bool) -> str:
    found = []
    for state in states:
        method = state["method"]
        text = f"{method['class_name']}({method['config']}) on {tuple(state['objectives'])}"
        text += f", private={state['private']!r}"
        if state["weights"]:
            text += f", weights {state['weights']}"
        if state["trained"] is not None:
            text += f", over {len(state['trained'])} variables (numbers {state['trained']})"
        found.append(text)
    return "; then ".join(found) + (" (objectives=)" if clock else "")
