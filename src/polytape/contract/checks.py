"""What many arguments have in common: numbers, seeds, names, and how an error shows a value."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Whether a value is a real number of Python or NumPy; booleans are none.

    >>> [is_number(value) for value in (1, 0.5, np.float32(2), True, 1j, "1", None)]
    [True, True, True, False, False, False, False]
    """
    real = isinstance(value, (int, float, np.integer, np.floating))
    return real and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of Python or NumPy; booleans are none.

    >>> [is_whole(value) for value in (1, np.int64(2), 1.0, True)]
    [True, True, False, False]
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def received(value: Any) -> str:
    """The end of an error: what came, on one line, and of which type.

    >>> received([1, 2])
    'Received: [1, 2] of type list.'
    """
    shown = " ".join(repr(value).split())
    if len(shown) > 100:
        shown = f"{shown[:97]}..."
    return f"Received: {shown} of type {type(value).__name__}."


def check_seed(seed: Any) -> int:
    """The seed as a whole number; `TypeError` if it is none."""
    if not is_whole(seed):
        raise TypeError(
            f"`seed` is a whole number, from which all random numbers follow. {received(seed)}"
        )
    return int(seed)


def check_objective_names(names: Iterable[Any]) -> tuple[str, ...]:
    """The names of objectives as a tuple; `TypeError` or `ValueError` unless texts, each once."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"The names of objectives are a list of texts. {received(names)}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"The name of an objective is a text. {received(name)}")
        if found.count(name) > 1:
            raise ValueError(f"Two objectives are called {name!r}. Give each a name of its own.")
    return found
