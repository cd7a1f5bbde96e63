"""Which optimizer updates which variable: the columns of the routing table."""

from collections.abc import Mapping
from typing import Any

import keras

from polytape.training.optimizers.inner_optimizers import resolved
from polytape.training.optimizers.optimizers import Optimizers
from polytape.training.routing.routes import VariableIndex

REST = "*"


def resolve_optimizer(optimizer: Any, asked_by: str = "compile(optimizer=...)") -> Any:
    """The `optimizer` of `compile`; of a dict, its optimizers as one."""
    if not isinstance(optimizer, Mapping):
        return resolved(optimizer, asked_by)
    if not optimizer:
        raise ValueError(
            f"{asked_by.replace('...', '{}')} has no optimizer: name one for each network, or one "
            f'for all as "{REST}".'
        )
    return Optimizers(optimizer)


def unscaled(optimizer: Any) -> Any:
    """The optimizer itself, without the loss scaling that may be around it."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if scaled else optimizer


def as_optimizers(optimizer: Any) -> Optimizers | None:
    """The optimizers behind one, whether or not loss scaling is around them."""
    found = unscaled(optimizer)
    return found if isinstance(found, Optimizers) else None


def assign_owners(optimizers: Optimizers, places: VariableIndex) -> None:
    """Tell the optimizers whose each variable is, by the names that they were given.

    Raises ValueError if a name means nothing, or a variable belongs to two or to none.
    """
    if optimizers.owners is not None:
        return
    owners: list[str | None] = [None] * len(places.variables)
    for name in optimizers:
        if name == REST:
            continue
        for index in places.select(name, "compile(optimizer=...)", frozen=True):
            if owners[index] is not None:
                raise ValueError(
                    f"Two optimizers, {owners[index]!r} and {name!r}, for the variable "
                    f"{places.variables[index].path!r}. Every variable is updated by one: name "
                    "parts that do not overlap. A layer that two networks share needs an entry of "
                    "its own."
                )
            owners[index] = name
    left = [index for index, owner in enumerate(owners) if owner is None]
    if left and REST not in list(optimizers):
        names = dict.fromkeys(places.owners[v] or places.variables[v].path for v in left)
        raise ValueError(
            f"No optimizer for {', '.join(map(repr, names))}. Name one, or one for all others as "
            f'"{REST}": compile(optimizer={{..., "{REST}": "adam"}}). Networks that shall not '
            "train have `trainable = False`."
        )
    optimizers.divide([owner or REST for owner in owners])
