"""Versions and machine, as far as they matter to numbers."""

import platform
import sys

import keras
import numpy as np

import polytape


def environment() -> dict[str, str]:
    """What a record says of where it was made.

    Returns:
        {what: version or name}.
    """
    backend = keras.backend.backend()
    return {
        "polytape": polytape.__version__,
        "keras": keras.__version__,
        "backend": backend,
        backend: sys.modules[backend].__version__,  # Keras has imported it
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
