"""Whether the gradient of every objective by every variable is formed, or only what they come to.

Formed gradients, the rows, take T times the memory of what they are by. Where calls of layers are
noted instead (`differentiation/layer_recording.py`), the gradients of one layer exist at a time.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import keras
import numpy as np

from polytape.contract import Method, iter_methods, received
from polytape.contract.types import Flags
from polytape.differentiation.layer_calls import Chooses, is_wide, where_cheaper, with_many_weights
from polytape.engines import Variable, engine
from polytape.training.functional import plain_functional, steps_as_keras

Noted = Literal["none", "cheaper", "large"]
WAYS = ("auto", "low", "high")
_SHARE = 0.25  # of a device's memory: what rows may take before they are not formed


def check_memory(asked: str, method: Method, measure: str, apart: bool) -> None:
    """Raise ValueError unless `asked` is a way that goes with the method.

    apart  whether the losses are taken out of the total of a user's own `compute_loss`
    """
    if asked not in WAYS:
        raise ValueError(
            "`memory` says whether the gradient of every objective by every shared variable is "
            f"kept until they are combined: one of {WAYS}. {received(asked)}"
        )
    refusal = needs_rows(method, apart)
    if asked == "low" and measure == "parameters" and refusal is not None:
        raise ValueError(
            f'memory="low" compares gradients without forming them, and {refusal}. Leave out '
            "`memory`; or choose a method that only compares gradients, such as pt.UPGrad()."
        )


def needs_rows(method: Method, apart: bool) -> str | None:
    """Why the gradients of a method must exist; None if they need not."""
    name = type(method).__name__
    if any(part.memory is not None for part in iter_methods(method)):
        return f"{name} remembers those of earlier steps"
    if any("half_batches" in part.evidence for part in iter_methods(method)):
        return f"{name} takes them on halves of the batch"
    if apart:
        return "the losses are found in the total that a compute_loss of your class returns"
    return None


def chosen(noted: Noted, model: keras.Model, batch: int | None) -> Chooses | None:
    """Which calls are noted; None: none.

    batch  the examples of one, where it is known before a step runs
    """
    if noted == "none":
        return None
    return with_many_weights if noted == "large" else where_cheaper(wide_layers(model), batch)


def wide_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The dense layers for which it is known that comparing gradients without them is right.

    They stand in the graph of a model, where no code of a user's calls them: that might take
    derivatives of what comes out, which depend on the weights in another way.
    """
    graph = model.called()
    if not isinstance(graph, plain_functional()) or not steps_as_keras(model):
        return []
    return [layer for layer in _in_graph(graph) if is_wide(layer)]


def _in_graph(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if type(layer) is keras.Sequential or type(layer) is plain_functional():
            yield from _in_graph(layer)
        else:
            yield layer


def fits(allowed: Flags, variables: Sequence[Variable]) -> bool:
    """Whether the rows of a step take little of the memory that there is.

    allowed  (T, V) bool: what each objective may train
    """
    whole = engine().device_memory()
    return whole is None or bytes_of_rows(allowed, variables) <= _SHARE * whole


def bytes_of_rows(reach: Flags, variables: Sequence[Variable]) -> int:
    """Of the gradients of all objectives by what they reach, (T, V) bool."""
    return int((reach @ np.array([bytes_of(variable) for variable in variables])).sum())


def bytes_of(variable: Variable) -> int:
    """Of a variable, and so of a gradient by it."""
    digits = "".join(filter(str.isdigit, keras.backend.standardize_dtype(variable.dtype)))
    return math.prod(variable.shape) * int(digits) // 8
