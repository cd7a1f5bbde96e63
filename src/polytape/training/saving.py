"""The method's state as part of the model: saved with it, checked when it comes back."""

import json
from typing import Any

import keras
import numpy as np

from polytape.contract import Method


class Held:
    """What one `compile` gives the model to carry: plain, so that Keras does not track it twice."""

    def __init__(
        self, variables: list[Any], metrics: list[Any], seeds: list[Any], signature: str
    ) -> None:
        self.variables, self.metrics = variables, metrics
        self.seeds, self.signature = seeds, signature


@keras.saving.register_keras_serializable(package="polytape")
class MethodState(keras.layers.Layer):
    """Carries the state of `combine` as non-trainable variables of the model.

    A layer of its own because a built model accepts no new weights, while a method's state has a
    shape only when the objectives are known, and is replaced by the next `compile`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"name": "method_state", **kwargs})
        self.built = True
        self._held: Held | None = None
        self._pending: dict[str, np.ndarray] = {}
        self._seeds: list[np.ndarray] = []

    def claim(self, method: Method, names: tuple[str, ...]) -> list[np.ndarray] | None:
        """The state loaded before it was known whose it is, if there is one."""
        pending, self._pending = self._pending, {}
        return _leaves(pending, _signature(method, names)) if pending else None

    def hold(
        self,
        variables: list[Any],
        metrics: list[Any],
        seeds: list[Any],
        method: Method,
        names: tuple[str, ...],
    ) -> None:
        """Carry the state of a method, and metrics of objectives; save the seeds of layers, too.

        seeds  states of seed generators, which Keras advances with the model and does not save
        """
        self._held = Held(variables, metrics, seeds, _signature(method, names))
        self._sow()

    def _sow(self) -> None:
        """Hand loaded seeds to the generators that they came from."""
        held, found = self._held, self._seeds
        if held is not None and len(found) == len(held.seeds):
            for variable, value in zip(held.seeds, found, strict=True):
                variable.assign(value)
            self._seeds = []

    def release(self) -> None:
        """Carry nothing, until the next `hold`."""
        self._held = None

    @property
    def variables(self) -> list[Any]:
        return list(self._held.variables) if self._held else []

    @property
    def weights(self) -> list[Any]:
        return self.variables

    @property
    def metrics(self) -> list[Any]:
        return list(self._held.metrics) if self._held else []

    def save_own_variables(self, store: Any) -> None:
        if self._held and self._held.variables:
            store["signature"] = np.frombuffer(self._held.signature.encode(), "uint8")
            for index, variable in enumerate(self._held.variables):
                store[str(index)] = variable
        for index, variable in enumerate(self._held.seeds if self._held else ()):
            store[f"seed_{index}"] = variable

    def load_own_variables(self, store: Any) -> None:
        found = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        keys = [key for key in found if key.startswith("seed_")]
        self._seeds = [found.pop(key) for key in sorted(keys, key=lambda key: int(key[5:]))]
        self._sow()
        if self._held is None:
            self._pending = found
            return
        if found:  # else the weights of a plain Keras model: the method starts afresh
            leaves = _leaves(found, self._held.signature)
            for variable, value in zip(self._held.variables, leaves, strict=True):
                variable.assign(value)


def _signature(method: Method, names: tuple[str, ...]) -> str:
    config = keras.saving.serialize_keras_object(method)
    return json.dumps({"method": config, "objectives": names}, sort_keys=True)


def _leaves(saved: dict[str, np.ndarray], signature: str) -> list[np.ndarray]:
    """The arrays of a saved state, if it is the state of this method."""
    found = saved["signature"].tobytes().decode()
    if found != signature:
        raise ValueError(_mismatch(found, signature))
    return [saved[str(index)] for index in range(len(saved) - 1)]


def _mismatch(saved: str, compiled: str) -> str:
    def name(text: str) -> str:
        signature = json.loads(text)
        method = signature["method"]
        return f"{method['class_name']}({method['config']}) on {tuple(signature['objectives'])}"

    return (
        f"The checkpoint holds the state of another method. Saved: {name(saved)}. "
        f"Compiled: {name(compiled)}. Compile with the method and objectives of the checkpoint to "
        'resume it, or load it into a model compiled with combine="sum" and compile anew.'
    )
