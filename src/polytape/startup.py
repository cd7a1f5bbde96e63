"""What the command line settles before Keras is imported: the backend, and silence.

Nothing here is done on `import polytape`: a library leaves environment and logs alone.
"""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")  # in the order of preference


def choose_backend(*, training: bool) -> None:
    """Settle `KERAS_BACKEND` before Keras is imported, and say so if there is none.

    The user's variable comes first, then keras.json, then the first framework that is installed.
    Without training, NumPy starts fastest; Keras's needs JAX to be installed, too.
    Errors: ValueError with the remedy if there is none that can train.
    """
    if "keras" in sys.modules:
        return
    asked = os.environ.get("KERAS_BACKEND") or None
    if not training and asked in (None, "numpy") and _installed("jax"):
        os.environ["KERAS_BACKEND"] = "numpy"
        return
    if asked == "numpy" and training:
        raise ValueError("KERAS_BACKEND=numpy cannot train. Set it to tensorflow, jax or torch.")
    if asked not in (None, "numpy") and not _installed(asked):
        raise ValueError(
            f"KERAS_BACKEND={asked}, but {asked} is not installed. "
            f'Install it: pip install "polytape[{asked}]", or unset KERAS_BACKEND.'
        )
    preferred = asked or _configured()  # without JAX "numpy" counts as nothing said
    usable = [name for name in (preferred, *BACKENDS) if name in BACKENDS and _installed(name)]
    if not usable:
        raise ValueError(
            'Keras needs a framework to train with: pip install "polytape[tensorflow]" '
            "(or polytape[jax], polytape[torch])."
        )
    os.environ["KERAS_BACKEND"] = usable[0]


@contextlib.contextmanager
def quiet_frameworks() -> Iterator[None]:
    """Drop what native code writes to standard error; Python's own messages still arrive.

    TensorFlow logs its start-up past every setting of its own. Whoever sets TF_CPP_MIN_LOG_LEVEL
    wants to read the log, and gets it.
    """
    python = sys.stderr
    try:
        native = "TF_CPP_MIN_LOG_LEVEL" not in os.environ and python.fileno() == 2
    except (OSError, ValueError, AttributeError):
        native = False
    if not native:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    python.flush()
    # Left open afterwards: a logging handler made in the meantime may still hold it.
    sys.stderr = open(  # noqa: SIM115
        os.dup(2), "w", buffering=1, encoding=python.encoding, errors=python.errors
    )
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(sys.stderr.fileno(), 2)
        sys.stderr = python


def _configured() -> str:
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text()).get("backend", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _installed(framework: str) -> bool:
    return importlib.util.find_spec(framework) is not None
