"""Routes: which objective trains which variable, by declaration and in fact."""

import fnmatch
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from polytape.contract import did_you_mean
from polytape.differentiation.jacobian import path_of


@dataclass(frozen=True)
class VariableIndex:
    """The variables of a model, and the networks they belong to.

    networks   {name: network or layer}: the columns of the routing table
    variables  the model's trainable variables
    """

    networks: Mapping[str, Any]
    variables: Sequence[Any]

    @cached_property
    def owners(self) -> tuple[str, ...]:
        """The name of the first network that holds each variable; "" if none does."""
        found = dict.fromkeys(map(id, self.variables), "")
        for name, network in reversed([*self.networks.items()]):
            found.update({id(v): name for v in network.trainable_variables if id(v) in found})
        return tuple(found[id(v)] for v in self.variables)

    def of(self, network: str) -> list[int]:
        """Indices of the trainable variables of a network."""
        return self._indices(self.networks[network].trainable_variables)

    def check_built(self) -> None:
        """Raise if a network has no variables yet although the model has been called."""
        for name, network in self.networks.items():
            if not network.built:
                raise ValueError(
                    f"Network {name!r} was declared and the forward pass never calls it, so it has "
                    "no variables yet. Call it there. If only a loss calls it, give it an Input, "
                    "as in keras.Sequential([keras.Input((3,)), ...])."
                )

    def select(self, item: Any, asked_by: str, frozen: bool = False) -> list[int]:
        """Indices of the variables that a name, pattern, layer or variable means.

        asked_by  who asks, for errors;  frozen  whether there may be none that trains

        Raises ValueError if there are none, or no such name.
        """
        found = self._found(item)
        if found is None:
            raise ValueError(self._unknown(item, asked_by))
        indices = self._indices(found)
        if not indices and not frozen:
            raise ValueError(
                f"{asked_by} names {_shown(item)}, which has no trainable variable of this "
                "model: it is frozen, or was never built. Set `trainable = True` before compile(), "
                "give the network an Input, or leave it out."
            )
        return indices

    def _found(self, item: Any) -> Sequence[Any] | None:
        if isinstance(item, keras.Variable):
            return [item]
        if isinstance(item, keras.layers.Layer):
            return item.trainable_variables
        if item in self.networks:
            return self.networks[item].trainable_variables
        layers = [layer for layer in self._layers() if layer.name == item]
        if layers:
            return [variable for layer in layers for variable in layer.trainable_variables]
        placed = zip(self.variables, self.owners, strict=True)
        return [v for v, owner in placed if fnmatch.fnmatchcase(self._path(v, owner), item)] or None

    def _layers(self) -> Iterator[Any]:
        waiting = list(self.networks.values())
        while waiting:
            layer = waiting.pop(0)
            yield layer
            waiting += getattr(layer, "layers", [])

    def _path(self, variable: Any, owner: str) -> str:
        """The variable's path, below the name that its network has here."""
        head, _, rest = variable.path.partition("/")
        same = owner and head == self.networks[owner].name
        return f"{owner}/{rest}" if same else f"{owner}/{variable.path}" if owner else variable.path

    def _indices(self, variables: Sequence[Any]) -> list[int]:
        wanted = set(map(id, variables))
        return [index for index, v in enumerate(self.variables) if id(v) in wanted]

    def _unknown(self, item: str, asked_by: str) -> str:
        known = [*self.networks, *(layer.name for layer in self._layers())]
        hint = did_you_mean(item, known, cutoff=0.4)
        return (
            f"{asked_by} names {item!r}, which is no network, no layer, and as a pattern matches "
            f"no variable path.{hint} Networks: {', '.join(map(repr, self.networks))}."
        )


@dataclass(frozen=True)
class Routes:
    """Which variables each objective may train.

    allowed  (T, V) bool
    """

    allowed: np.ndarray

    @classmethod
    def anywhere(cls, objectives: int, variables: int) -> "Routes":
        """Every objective trains all that it reaches."""
        return cls(np.ones((objectives, variables), bool))

    @classmethod
    def declared(cls, objectives: Sequence[Any], places: VariableIndex) -> "Routes":
        """As the objectives say in `trains`."""
        allowed = np.ones((len(objectives), len(places.variables)), bool)
        for row, objective in zip(allowed, objectives, strict=True):
            if objective.trains is not None:
                row[:] = False
                for item in objective.trains:
                    row[places.select(item, f"Objective {objective.name!r}")] = True
        return cls(allowed)

    @property
    def open(self) -> bool:
        """Whether nothing is ruled out."""
        return bool(self.allowed.all())

    def row(self, objective: int) -> list[int]:
        """The variables that an objective may train."""
        return np.flatnonzero(self.allowed[objective]).tolist()

    @cached_property
    def parts(self) -> list[tuple[list[int], list[int]]]:
        """(objectives, variables): variables grouped by the objectives that may train them."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for variable, column in enumerate(self.allowed.T):
            groups.setdefault(tuple(np.flatnonzero(column).tolist()), []).append(variable)
        return [(list(objectives), found) for objectives, found in groups.items() if objectives]

    def within(self, reach: np.ndarray) -> np.ndarray:
        """(T, V) bool: what is both reached and allowed."""
        return reach & self.allowed

    def check(self, reach: np.ndarray, objectives: Sequence[Any], places: VariableIndex) -> None:
        """Raise if a named part of the model is not reached by the objective that shall train it.

        reach  (T, V) bool: differentiable paths
        """
        for row, objective in zip(reach, objectives, strict=True):
            for item in objective.trains or ():
                if not row[places.select(item, f"Objective {objective.name!r}")].any():
                    raise ValueError(_nowhere(objective.name, item, row, places))


def _nowhere(name: str, item: Any, row: np.ndarray, places: VariableIndex) -> str:
    owners = dict.fromkeys(places.owners[v] for v in np.flatnonzero(row))
    reached = ", ".join(repr(owner) for owner in owners if owner) or "nothing"
    return (
        f"Objective {name!r} shall train {_shown(item)}, but no differentiable path leads from its "
        f"loss to it. It reaches {reached}. Likely causes: the loss reads an output that this "
        "network does not make, or the path goes through stop_gradient, argmax, a comparison, a "
        "cast to integers or NumPy. Mend the path or the route."
    )


def check_trained(reach: np.ndarray, places: VariableIndex) -> None:
    """Raise if no objective trains a network; warn of single variables that none trains.

    reach  (T, V) bool: what the objectives reach and may train
    """
    trained: Any = reach.any(axis=0)
    for name in places.networks:
        own = places.of(name)
        if own and not trained[own].any():
            raise ValueError(
                f"Network {name!r} has {len(own)} trainable variables and no objective trains "
                "them: it is not called in the forward pass, no loss reads what it makes, or the "
                "routes leave it out. Mend that, or set its `trainable = False` before compile()."
            )
    warn_untrained([v for v, known in zip(places.variables, trained, strict=True) if not known])


def warn_untrained(variables: Sequence[Any]) -> None:
    """Warn of variables that nothing trains, if there are any."""
    if variables:
        paths = [path_of(variable) for variable in variables]
        more = ", ..." if len(paths) > 4 else ""
        warnings.warn(
            f"No objective trains {len(paths)} variables: {', '.join(paths[:4])}{more}. The "
            "optimizer leaves them as they are.",
            UserWarning,
            stacklevel=2,
        )


def _shown(item: Any) -> str:
    if isinstance(item, keras.Variable):
        return f"variable {item.path!r}"
    return f"layer {item.name!r}" if isinstance(item, keras.layers.Layer) else repr(item)
