"""The method's state as part of the model: saved with it, checked when it comes back."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import ops

from polytape.aggregation import Owner, Saved, StateStore
from polytape.contract.types import Array, Store

SEEDS = "seeds"  # the paths of seed generators, beside their states


class Carried:
    """What one `compile` gives the model to carry: plain, so that Keras does not track it twice."""

    def __init__(
        self, states: StateStore, metrics: list[keras.metrics.Metric], seeds: list[keras.Variable]
    ) -> None:
        self.states, self.metrics, self.seeds = states, metrics, seeds


@dataclass(frozen=True)
class Pending:
    """What was loaded before it was known whose it is.

    before  whether that was before the last `compile`;  seeds  with their paths
    """

    saved: Saved | None = None
    before: bool = False
    seeds: Sequence[tuple[str, Array]] = ()


@keras.saving.register_keras_serializable(package="polytape")
class MethodState(keras.layers.Layer):
    """Carries the state of `combine` as non-trainable variables of the model.

    A layer of its own because a built model accepts no new weights, while a method's state has a
    shape only when the objectives are known, and is replaced by the next `compile`.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{"name": "method_state", **kwargs})
        self.built = True
        self._carried: Carried | None = None
        self.pending = Pending()
        self.refusal: ValueError | None = None  # of what is being loaded
        self._networks: tuple[str, ...] = ()

    def of_networks(self, names: Sequence[str]) -> None:
        """Tell the names of a model's networks, which Keras saves by position."""
        self._networks = tuple(names)

    def loaded_for(self, owners: Sequence[Owner], clock: bool) -> Saved | None:
        """The state loaded before it was known whose it is, if there is one.

        ValueError if it is another's, unless it was loaded before `compile`, which then is a new
        start.
        """
        pending = self.pending
        if pending.saved is None:
            return None
        try:
            pending.saved.check(owners, clock)
        except ValueError as error:
            if not pending.before:
                raise
            self.pending = replace(pending, saved=None)
            warnings.warn(
                "The method starts afresh: the state that was loaded before compile() does not "
                f"belong to what is compiled now. {error}",
                UserWarning,
                stacklevel=2,
            )
        return self.pending.saved

    def attach(
        self, store: StateStore, metrics: list[keras.metrics.Metric], seeds: list[keras.Variable]
    ) -> None:
        """Carry the state of methods, and metrics of objectives; save the seeds of layers, too.

        seeds  states of seed generators, which Keras advances with the model and does not save
        """
        self._carried = Carried(store, metrics, seeds)
        self.pending = replace(self.pending, saved=None)
        self._sow()

    def _sow(self) -> None:
        """Hand loaded seeds to the generators that they came from."""
        found = self.pending.seeds
        if self._carried is None or not found:
            return
        self.pending = replace(self.pending, seeds=())
        known = self._carried.seeds
        if len(found) != len(known):
            warnings.warn(
                f"The file has the seeds of {len(found)} layers that draw random numbers, and the "
                f"model has {len(known)} such layers: they start afresh.",
                UserWarning,
                stacklevel=2,
            )
            return
        named = {variable.path: variable for variable in known}
        if set(named) != {path for path, _ in found} or len(named) < len(known):
            # Names that Keras made up differ from model to model; the order of layers does not.
            named = {path: known[place] for place, (path, _) in enumerate(found)}
        for path, value in found:
            named[path].assign(value)

    def detach(self) -> None:
        """Carry nothing, until the next `attach`."""
        self._carried = None
        self.pending = replace(self.pending, before=True)

    def metrics_join(self, metric: keras.metrics.Metric) -> None:
        """Carry one more metric."""
        if self._carried is not None:
            self._carried.metrics.append(metric)

    def metrics_leave(self, metric: keras.metrics.Metric) -> None:
        """Carry a metric no longer."""
        if self._carried is not None:
            self._carried.metrics = [each for each in self._carried.metrics if each is not metric]

    @property
    def variables(self) -> list[keras.Variable]:
        return self._carried.states.variables if self._carried else []

    @property
    def weights(self) -> list[keras.Variable]:
        return self.variables

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._carried.metrics) if self._carried else []

    def save_own_variables(self, store: Store) -> None:
        if self._networks:
            store["networks"] = _bytes(self._networks)
        seeds = list(self.pending.seeds)
        if self._carried is not None:
            self._carried.states.save(store)
            seeds = [(variable.path, variable) for variable in self._carried.seeds]
        elif self.pending.saved is not None:
            self.pending.saved.save(store)
        if seeds:
            store[SEEDS] = _bytes([path for path, _ in seeds])
        for index, (_, value) in enumerate(seeds):
            store[f"seed_{index}"] = value

    def load_own_variables(self, store: Store) -> None:
        found = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        if found:
            self.refusal = None
        if self.refusal is not None:
            # Keras comes here by every attribute that leads here, finds nothing by the others, and
            # takes that for success.
            raise self.refusal
        try:
            self._load(found)
        except ValueError as error:
            self.refusal = error
            raise

    def _load(self, found: dict[str, Array]) -> None:
        if "networks" in found:
            _check_networks(tuple(_read(found["networks"])), self._networks)
        saved = Saved.read(found)
        if saved is not None and self._carried is None:
            self.pending = Pending(saved)
        elif saved is not None and self._carried is not None:
            if self._carried.states.variables:
                self._carried.states.load(saved)
            else:
                warnings.warn(
                    f"The file holds the state of {saved.described()}. What is compiled keeps no "
                    "state, so that is left aside.",
                    UserWarning,
                    stacklevel=2,
                )
        if SEEDS in found:
            paths = _read(found[SEEDS])
            seeds = [(path, found[f"seed_{index}"]) for index, path in enumerate(paths)]
            self.pending = replace(self.pending, seeds=seeds)
            self._sow()


@contextlib.contextmanager
def unchanged_on_failure(model: keras.Model) -> Iterator[None]:
    """Give all variables of a model their values back if what is done here raises."""
    optimizer = model.optimizer.variables if model.compiled else []
    every = [*model.variables, *model.metrics_variables, *optimizer, *model.method_state.variables]
    values = [ops.copy(ops.stop_gradient(variable.value)) for variable in every]
    pending = model.method_state.pending
    try:
        yield
    except BaseException:
        model.method_state.pending = pending
        for variable, value in zip(every, values, strict=True):
            variable.assign(value)
        raise
    finally:
        model.method_state.refusal = None


def _bytes(value: Sequence[str]) -> Array:
    return np.frombuffer(json.dumps(list(value)).encode(), "uint8")


def _read(array: Array) -> list[str]:
    return list(json.loads(array.tobytes().decode()))


def _check_networks(saved: tuple[str, ...], known: tuple[str, ...]) -> None:
    if saved != known:
        raise ValueError(
            f"The file holds the networks {', '.join(map(repr, saved))}, in this order, and the "
            f"model has {', '.join(map(repr, known))}. Keras saves networks by position, so their "
            "weights would be exchanged: give pt.Model(networks={...}) the same names in the same "
            "order."
        )
