"""A method's state held in Keras variables, so that jit, checkpoints and resume need no case."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from polytape.contract import State, ops
from polytape.engines import engine

Path = tuple[str, ...]  # the place of an array in a state


def leaves(state: State, path: Path = ()) -> dict[Path, Any]:
    """The arrays of a state by their places: keys of dicts, fields of named tuples, positions.

    Not `keras.tree`, whose order of a dict's entries differs between backends.
    """
    if isinstance(state, Mapping):
        entries = {str(key): item for key, item in state.items()}
    elif isinstance(state, tuple) and type(state) is not tuple:  # named
        entries = state._asdict()  # type: ignore[attr-defined]
    elif isinstance(state, (tuple, list)):
        entries = {str(place): item for place, item in enumerate(state)}
    else:
        return {path: state}
    found: dict[Path, Any] = {}
    for key, item in entries.items():
        found.update(leaves(item, (*path, key)))
    return found


def rebuilt(template: State, found: Mapping[Path, Any], path: Path = ()) -> State:
    """A state of the structure of `template`, with other arrays: the opposite of `leaves`."""
    if isinstance(template, Mapping):
        return {key: rebuilt(item, found, (*path, str(key))) for key, item in template.items()}
    if isinstance(template, tuple) and type(template) is not tuple:
        fields = template._asdict()  # type: ignore[attr-defined]
        return type(template)(**{k: rebuilt(v, found, (*path, k)) for k, v in fields.items()})
    if isinstance(template, (tuple, list)):
        items = [rebuilt(item, found, (*path, str(i))) for i, item in enumerate(template)]
        return type(template)(items)
    return found[path]


class StateVariables:
    """A pytree of arrays kept in non-trainable variables, each found by its place.

    make   creates one: `keras.Variable`, or what takes the same arguments
    names  {place of an array: its name, the parts of the path of its variable}
    beside {place of an array (T, ...): the variable (...) that it belongs to}, if there are such
    """

    def __init__(
        self,
        initial: State,
        make: Callable[..., Any],
        names: Mapping[Path, Path],
        beside: Mapping[Path, Any] | None = None,
    ) -> None:
        self._template = rebuilt(initial, dict.fromkeys(leaves(initial)))
        self.names = names
        self.named_variables: dict[Path, Any] = {
            place: _made(make, names[place], leaf, (beside or {}).get(place))
            for place, leaf in leaves(initial).items()
        }

    @property
    def variables(self) -> list[Any]:
        return list(self.named_variables.values())

    def read(self) -> State:
        found = {path: variable.value for path, variable in self.named_variables.items()}
        return rebuilt(self._template, found)

    def named(self, key: str) -> list[Any]:
        """The variables whose place in the pytree ends with `key`."""
        return [variable for path, variable in self.named_variables.items() if path[-1:] == (key,)]

    def write(self, state: State, accept: Any) -> None:
        """Take over a new state where `accept` () bool is true."""
        if not self.named_variables:
            return
        found = leaves(state)
        pairs = [(variable, found[path]) for path, variable in self.named_variables.items()]
        changed = [(variable, leaf) for variable, leaf in pairs if leaf is not variable.value]
        if changed:
            variables, values = zip(*changed, strict=True)
            engine().assign(variables, values, accept)


def _made(make: Callable[..., Any], name: Path, leaf: Any, beside: Any = None) -> Any:
    with contextlib.ExitStack() as scopes:
        for part in name[:-1]:
            scopes.enter_context(keras.name_scope(part))
        return make(
            name=name[-1],
            shape=np.shape(leaf),
            dtype=str(np.asarray(leaf).dtype),
            initializer=constant(leaf),
            trainable=False,
            autocast=False,
            **engine().placed(np.ndim(leaf), beside),
        )


def constant(leaf: Any) -> Callable[..., Any]:
    """An initializer that gives a known array."""
    return _Known(leaf)


class _Known:
    """An object, since Keras compiles the `__call__` of an initializer of a large array."""

    def __init__(self, leaf: Any) -> None:
        self._leaf = leaf

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        del shape
        return ops.convert_to_tensor(np.asarray(self._leaf), dtype=dtype)
