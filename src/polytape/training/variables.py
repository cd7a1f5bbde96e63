"""The variables of a model, and the networks they belong to."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import keras

from polytape.contract import did_you_mean
from polytape.contract.types import Anything
from polytape.differentiation.variables import path_of


@dataclass(frozen=True)
class VariableIndex:
    """The variables of a model, and the networks they belong to.

    networks   {name: network or layer}: the columns of the routing table
    variables  the model's trainable variables
    """

    networks: Mapping[str, keras.layers.Layer]
    variables: Sequence[keras.Variable]

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The path of each variable."""
        return tuple(path_of(variable) for variable in self.variables)

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

    def select(self, item: Anything, asked_by: str, frozen: bool = False) -> list[int]:
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
                f"{asked_by} names {shown(item)}, which has no trainable variable of this "
                "model: it is frozen, or was never built. Set `trainable = True` before compile(), "
                "give the network an Input, or leave it out."
            )
        return indices

    def _found(self, item: Anything) -> Sequence[keras.Variable] | None:
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

    def _layers(self) -> Iterator[Anything]:
        waiting = list(self.networks.values())
        while waiting:
            layer = waiting.pop(0)
            yield layer
            waiting += getattr(layer, "layers", [])

    def _path(self, variable: keras.Variable, owner: str) -> str:
        """The variable's path, below the name that its network has here."""
        head, _, rest = variable.path.partition("/")
        same = owner and head == self.networks[owner].name
        return f"{owner}/{rest}" if same else f"{owner}/{variable.path}" if owner else variable.path

    def _indices(self, variables: Sequence[keras.Variable]) -> list[int]:
        wanted = set(map(id, variables))
        return [index for index, v in enumerate(self.variables) if id(v) in wanted]

    def _unknown(self, item: str, asked_by: str) -> str:
        known = [*self.networks, *(layer.name for layer in self._layers())]
        hint = did_you_mean(item, known, cutoff=0.4)
        return (
            f"{asked_by} names {item!r}, which is no network, no layer, and as a pattern matches "
            f"no variable path.{hint} Networks: {', '.join(map(repr, self.networks))}."
        )


def shown(item: Anything) -> str:
    """A name, pattern, layer or variable, in words."""
    if isinstance(item, keras.Variable):
        return f"variable {item.path!r}"
    return f"layer {item.name!r}" if isinstance(item, keras.layers.Layer) else repr(item)
