"""Advice at the first step, when it is known who trains what: settings that do not do what they
seem to.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from polytape.catalogue import all_methods, catalogue
from polytape.contract import Method, iter_methods
from polytape.differentiation.jacobian import path_of
from polytape.methods.mean import Mean
from polytape.methods.sum import Sum
from polytape.training.optimizers.assignment import as_optimizers, unscaled

SCALE_FREE = (  # divide a gradient by its own size
    keras.optimizers.Adam,
    keras.optimizers.Adamax,
    keras.optimizers.Lion,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
)
COUNTING = (keras.optimizers.Adam, keras.optimizers.Adamax, keras.optimizers.Nadam)
Trained = Mapping[str, np.ndarray]  # {objective: (V,) bool}: reached and on its route


def advise(plan: Any, trained: Trained) -> None:
    """Warn of weights without effect, and of optimizers that count the steps of several phases."""
    for text in (*_weights(plan, trained), *_counts(plan, trained)):
        warnings.warn(text, UserWarning, stacklevel=2)


def combines(method: Method) -> bool:
    """Whether a method asks how losses compare: stages and sums of one loss do something, too."""
    stages = {*catalogue().values()} - {*all_methods().values()}
    leaves = [part for part in iter_methods(method) if not isinstance(part, (*stages, Sum, Mean))]
    return bool(leaves)


def advise_alone(plan: Any) -> None:
    """Warn of a method that has one objective."""
    if len(plan.names) == 1 and combines(plan.method):
        warnings.warn(
            f"There is one objective, {plan.names[0]!r}, so {type(plan.method).__name__} has "
            'nothing to combine: use combine="sum", or give each loss a name of its own, in '
            "compile(loss={...}) or compile(objectives=[...]).",
            UserWarning,
            stacklevel=2,
        )


def advise_untracked(plan: Any) -> None:
    """Warn of losses with variables that the model does not know, and hence nobody trains."""
    known = set(map(id, plan.model.variables))
    for loss in plan.source.losses:
        for variable in _held(loss):
            if id(variable) not in known:
                warnings.warn(
                    f"The loss {type(loss).__name__} holds {path_of(variable)!r}, which is "
                    "trainable and no variable of the model: nothing trains it, as in plain Keras. "
                    "Make it a weight or a layer of the model and read it in a function of the "
                    "step, step.networks[...]; or set `trainable = False` if it is to stay.",
                    UserWarning,
                    stacklevel=2,
                )


def _held(loss: Any) -> list[Any]:
    """The trainable variables among the attributes of a loss."""
    found: list[Any] = []
    for value in keras.tree.flatten([*getattr(loss, "__dict__", {}).values()]):
        if isinstance(value, keras.layers.Layer):
            found += value.trainable_variables
        elif isinstance(value, keras.Variable) and value.trainable:
            found.append(value)
    return found


def _weights(plan: Any, trained: Trained) -> Iterator[str]:
    mixed = plan.private == "joint" or plan.model.losses or plan.overrides
    if mixed or not isinstance(plan.method, (Sum, Mean)):
        return
    for name, row in trained.items():
        weight = plan.objectives.given[name].weight
        if not isinstance(weight, float) or weight in (0.0, 1.0):
            continue
        alone = not any((row & other).any() for key, other in trained.items() if key != name)
        found = [optimizer for optimizer, own in _optimizers(plan) if (own & row).any()]
        if alone and all(map(_scale_free, found)):
            yield (
                f"The weight {weight:g} of objective {name!r} has no effect on training: no other "
                f"objective trains {_networks(plan, row)}, and {type(found[0]).__name__} divides "
                "every gradient by its own size. It only scales the logged loss. To make that part "
                "learn slower or faster give it an optimizer with a learning rate of its own, "
                "compile(optimizer={...})."
            )


def _counts(plan: Any, trained: Trained) -> Iterator[str]:
    for optimizer, own in _optimizers(plan):
        rows = [
            own & np.any([trained[name] for name in course.names], axis=0)
            for course in plan.courses
        ]
        rows = [row for row in rows if row.any()]
        alike = all((row == rows[0]).all() for row in rows)
        if not alike and _counting(optimizer):
            parts = " and ".join(dict.fromkeys(_networks(plan, row) for row in rows))
            yield (
                f"{type(optimizer).__name__} is applied in {len(rows)} phases, to {parts}. Its "
                "step count, and with it bias correction and learning rate schedule, advances in "
                "every phase, for variables too that the phase does not train. Give each network "
                "an optimizer of its own, compile(optimizer={...})."
            )


def _optimizers(plan: Any) -> list[tuple[Any, np.ndarray]]:
    """(optimizer, (V,) bool: the variables that it updates)."""
    optimizer = plan.model.optimizer
    if (parts := as_optimizers(optimizer)) is not None:
        owners = np.array(parts.owners)
        return [(parts[name], owners == name) for name in parts]
    return [(unscaled(optimizer), np.ones(len(plan.places.variables), bool))]


def _scale_free(optimizer: Any) -> bool:
    clips = optimizer.clipnorm, optimizer.clipvalue, optimizer.global_clipnorm
    return isinstance(optimizer, SCALE_FREE) and not any(clips)


def _counting(optimizer: Any) -> bool:
    scheduled = not isinstance(optimizer.learning_rate, keras.Variable)
    return scheduled or isinstance(optimizer, COUNTING)


def _networks(plan: Any, row: np.ndarray) -> str:
    names = dict.fromkeys(plan.places.owners[v] for v in np.flatnonzero(row))
    return ", ".join(repr(name) for name in names if name)
