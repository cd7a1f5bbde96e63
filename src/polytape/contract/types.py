"""Names for what frameworks hand over, whose types only they know."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensor: TypeAlias = Any  # of the framework that runs
Nest: TypeAlias = Any  # of tensors or arrays: one, dicts and lists of them, or None
Anything: TypeAlias = Any  # what a user hands over, before it is checked
LossLike: TypeAlias = Any  # a Keras loss: an object, its name, or a function of y_true and y_pred
Store: TypeAlias = Any  # arrays of a file by name
Config: TypeAlias = dict[str, Any]  # as Keras saves it
Function: TypeAlias = Callable[..., Any]
Logs: TypeAlias = dict[str, float]
Array: TypeAlias = NDArray[np.generic]
Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Key: TypeAlias = Any  # of an entry in a nest: a name, a place
Mode: TypeAlias = Any  # whether a call trains: True, False, or None as around it
