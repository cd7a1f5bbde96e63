"""Which optimizer updates which variable: the columns of the routing table."""

from collections.abc import Mapping

import keras

from polytape.contract.types import Anything
from polytape.training.optimizers.inner_optimizers import resolved
from polytape.training.optimizers.optimizers import Optimizers
from polytape.training.variables import VariableIndex

REST = "*"


def resolve_optimizer(
    optimizer: keras.optimizers.Optimizer, asked_by: str = "compile(optimizer=...)"
) -> Anything:
    """The `optimizer` of `compile`; of a dict, its optimizers as one."""
    if not isinstance(optimizer, Mapping):
        return resolved(optimizer, asked_by)
    if not optimizer:
        raise ValueError(
            f"{asked_by.replace('...', '{}')} has no optimizer: name one for each network, or one "
            f'for all as "{REST}".'
        )
    return Optimizers(optimizer)


def unscaled(optimizer: keras.optimizers.Optimizer) -> Anything:
    """The optimizer itself, without the loss scaling that may be around it."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if scaled else optimizer


def as_optimizers(optimizer: keras.optimizers.Optimizer) -> Optimizers | None:
    """The optimizers behind one, whether or not loss scaling is around them."""
    found = unscaled(optimizer)
    return found if isinstance(found, Optimizers) else None


def assign_owners(optimizers: Optimizers, index: VariableIndex) -> None:
    """Tell the optimizers whose each variable is, by the names that they were given.

    Raises ValueError if a name means nothing, or a variable belongs to two or to none.
    """
    if optimizers.owners is not None:
        return
    owners: list[str | None] = [None] * len(index.variables)
    for name in optimizers:
        if name == REST:
            continue
        for place in index.select(name, "compile(optimizer=...)", frozen=True):
            if owners[place] is not None:
                raise ValueError(
                    f"Two optimizers, {owners[place]!r} and {name!r}, for the variable "
                    f"{index.variables[place].path!r}. Every variable is updated by one: name "
                    "parts that do not overlap. A layer that two networks share needs an entry of "
                    "its own."
                )
            owners[place] = name
    left = [place for place, owner in enumerate(owners) if owner is None]
    if left and REST not in list(optimizers):
        names = dict.fromkeys(index.owners[v] or index.variables[v].path for v in left)
        raise ValueError(
            f"No optimizer for {', '.join(map(repr, names))}. Name one, or one for all others as "
            f'"{REST}": compile(optimizer={{..., "{REST}": "adam"}}). Networks that shall not '
            "train have `trainable = False`."
        )
    optimizers.divide([owner or REST for owner in owners])


def described(optimizer: keras.optimizers.Optimizer) -> dict[str, str]:
    """Optimizers and their rates in words, by name: "" if there is but one."""
    if (parts := as_optimizers(optimizer)) is not None:
        return {name: _described(parts[name]) for name in parts}
    return {"": _described(unscaled(optimizer))}


def _described(optimizer: keras.optimizers.Optimizer) -> str:
    rate = optimizer.learning_rate  # a variable, unless it follows a schedule
    shown = f" {float(rate.numpy()):.3g}" if isinstance(rate, keras.Variable) else ""
    return type(optimizer).__name__ + shown
