"""Statistics that a forward pass keeps (BatchNorm), protected from bad batches."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from polytape.contract import Tensor

Kept = list[tuple[Any, Tensor]]


def kept_statistics(model: Any, own: Sequence[Any]) -> Kept:
    """Float variables that a forward pass may change, with their values.

    own  variables that no forward pass changes
    """
    known = set(map(id, own))
    return [
        (variable, ops.copy(variable.value))
        for variable in model.non_trainable_variables
        if "float" in str(variable.dtype) and id(variable) not in known
    ]


def restore(kept: Kept) -> None:
    """Take back statistics that a bad batch made non-finite."""
    for variable, value in kept:
        fine = ops.all(ops.isfinite(variable.value))
        variable.assign(ops.where(fine, variable.value, value))
