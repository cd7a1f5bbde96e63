"""Which framework an object belongs to, told without importing any."""

from typing import Any

import keras

_NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def framework_of(item: Any) -> str | None:
    """The Keras backend that an object, or a base of its class, comes from; None if from none."""
    for kind in type(item).__mro__:
        root = kind.__module__.partition(".")[0]
        found = {"jaxlib": "jax"}.get(root, root)
        if found in _NAMES:
            return found
    return None


def check_native(what: str, item: Any) -> None:
    """Raise if an object belongs to another framework than the one that Keras runs on.

    what  begins the error: "pt.gradients got"
    """
    theirs, ours = framework_of(item), keras.backend.backend()
    if theirs is not None and theirs != ours:
        raise TypeError(
            f"{what} an object of {_NAMES[theirs]} ({type(item).__name__}), and Keras runs on "
            f"{_NAMES.get(ours, ours)}. Set KERAS_BACKEND={theirs} before Keras is imported for "
            f'the first time: os.environ["KERAS_BACKEND"] = "{theirs}" as the first lines of the '
            "script, or in the shell."
        )
