"""Functions that a saved model could not find again: told when it is saved."""

import types
import warnings
from collections.abc import Mapping

import keras

from polytape.contract.types import Anything, Function, Nest


def warn_of_lost(given: Mapping[str, Anything]) -> None:
    """Warn of functions that `keras.models.load_model` alone will not find.

    given  {what it is, in words: function, or anything else, which Keras saves by its config}
    """
    for what, function in given.items():
        if not isinstance(function, types.FunctionType):
            continue
        reason = _reason(function)
        if reason is not None:
            warnings.warn(
                f"What is saved now cannot be loaded as it is: {what} is {reason}. Write it as a "
                "function of a module and put @keras.saving.register_keras_serializable() above "
                "it. A file that has been written already is loaded with "
                f"custom_objects={{{function.__name__!r}: ...}}.",
                UserWarning,
                stacklevel=2,
            )


def named_functions(what: str, nest: Nest) -> dict[str, Anything]:
    """The leaves of a nest of losses, with the words for each."""
    paths = keras.tree.flatten_with_path(nest)
    return {" of ".join([what, *(repr(key) for key in path)]): leaf for path, leaf in paths}


def _reason(function: Function) -> str | None:
    """Why a function is not found again; None if it is."""
    if function.__name__ == "<lambda>":
        return "a lambda, which has no name to be found by"
    name = keras.saving.get_registered_name(function)
    if keras.saving.get_registered_object(name) is function:
        return None
    if _of_keras(function):
        return None
    if "<locals>" in function.__qualname__:
        return f"the function {function.__name__!r} inside another one, not registered with Keras"
    return f"the function {function.__name__!r}, not registered with Keras"


def _of_keras(function: Function) -> bool:
    """Whether it is a function that Keras finds by its name."""
    return any(
        vars(module).get(function.__name__) is function
        for module in (keras.losses, keras.metrics, keras.activations)
    )
