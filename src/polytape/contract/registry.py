"""All methods and stages by name. A class enters by being defined."""

import difflib
from typing import Any

import keras

_REGISTRY: dict[str, type[Any]] = {}


def _key(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def register(cls: type[Any]) -> None:
    """Enter a method under its name, here and for Keras serialization; names must not clash."""
    taken = _REGISTRY.get(_key(cls.__name__))
    origin = (cls.__module__, cls.__qualname__)
    if taken is not None and (taken.__module__, taken.__qualname__) != origin:
        raise ValueError(
            f"Two methods are called {cls.__name__}: one in {taken.__module__}, one in "
            f"{cls.__module__}. Rename one of them."
        )
    _REGISTRY[_key(cls.__name__)] = cls
    keras.saving.register_keras_serializable(package="polytape")(cls)


def registered() -> dict[str, type[Any]]:
    """All methods and stages known so far, by lower-case name."""
    return dict(_REGISTRY)


def find(name: str) -> type[Any]:
    """The method of that name, in any spelling ("upgrad", "IMTL-G"); errors offer the nearest."""
    found = _REGISTRY.get(_key(name))
    if found is None:
        nearest = difflib.get_close_matches(_key(name), _REGISTRY, n=3, cutoff=0.4)
        hint = ", ".join(f'"{_REGISTRY[key].__name__.lower()}"' for key in nearest)
        raise ValueError(
            f"Unknown method: {name!r}. "
            + (f"Did you mean {hint}? " if hint else "")
            + "`polytape methods` lists them all."
        )
    return found
