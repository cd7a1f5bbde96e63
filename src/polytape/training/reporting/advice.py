"""Advice at the first step, when it is known who trains what: settings that do not do what they
seem to.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from polytape.contract import Method
from polytape.contract.types import Anything, Flags, LossLike
from polytape.differentiation.variables import path_of
from polytape.methods.mean import Mean
from polytape.methods.sum import Sum
from polytape.training.optimizers.assignment import as_optimizers, unscaled
from polytape.training.plan import Settings, StepPlan
from polytape.training.settings import combines

SCALE_FREE = (  # divide a gradient by its own size
    keras.optimizers.Adam,
    keras.optimizers.Adamax,
    keras.optimizers.Lion,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
)
COUNTING = (keras.optimizers.Adam, keras.optimizers.Adamax, keras.optimizers.Nadam)
Optimized = list[tuple[Anything, Flags]]
Trained = Mapping[str, Flags]  # {objective: (V,) bool}: reached and on its route


def advise(settings: Settings, plan: StepPlan, model: keras.Model, trained: Trained) -> None:
    """Warn of weights without effect, and of optimizers that count the steps of several phases."""
    found = _optimizers(model.optimizer, len(plan.index.variables))
    for text in (*_weights(settings, plan, model, found, trained), *_counts(plan, found, trained)):
        warnings.warn(text, UserWarning, stacklevel=2)


def advise_alone(method: Method, names: Sequence[str]) -> None:
    """Warn of a method that has one objective."""
    if len(names) == 1 and combines(method):
        warnings.warn(
            f"There is one objective, {names[0]!r}, so {type(method).__name__} has "
            'nothing to combine: use combine="sum", or give each loss a name of its own, in '
            "compile(loss={...}) or compile(objectives=[...]).",
            UserWarning,
            stacklevel=2,
        )


def advise_untracked(losses: Sequence[LossLike], variables: Sequence[keras.Variable]) -> None:
    """Warn of losses with variables that the model does not know, and hence nobody trains."""
    known = set(map(id, variables))
    for loss in losses:
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


def _held(loss: LossLike) -> list[keras.Variable]:
    """The trainable variables among the attributes of a loss."""
    found: list[Anything] = []
    for value in keras.tree.flatten([*getattr(loss, "__dict__", {}).values()]):
        if isinstance(value, keras.layers.Layer):
            found += value.trainable_variables
        elif isinstance(value, keras.Variable) and value.trainable:
            found.append(value)
    return found


def _weights(
    settings: Settings, plan: StepPlan, model: keras.Model, optimizers: Optimized, trained: Trained
) -> Iterator[str]:
    mixed = settings.private == "joint" or model.losses or settings.overrides
    objectives = settings.objectives
    if mixed or objectives is None or not isinstance(settings.method, (Sum, Mean)):
        return
    for name, row in trained.items():
        weight = objectives.given[name].weight
        if not isinstance(weight, float) or weight in (0.0, 1.0):
            continue
        alone = not any((row & other).any() for key, other in trained.items() if key != name)
        found = [optimizer for optimizer, own in optimizers if (own & row).any()]
        if alone and all(map(_scale_free, found)):
            yield (
                f"The weight {weight:g} of objective {name!r} has no effect on training: no other "
                f"objective trains {_networks(plan, row)}, and {type(found[0]).__name__} divides "
                "every gradient by its own size. It only scales the logged loss. To make that part "
                "learn slower or faster give it an optimizer with a learning rate of its own, "
                "compile(optimizer={...})."
            )


def _counts(plan: StepPlan, optimizers: Optimized, trained: Trained) -> Iterator[str]:
    for optimizer, own in optimizers:
        rows = [
            own & np.any([trained[name] for name in phase.names], axis=0) for phase in plan.phases
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


def _optimizers(optimizer: keras.optimizers.Optimizer, count: int) -> Optimized:
    """(optimizer, (V,) bool: which of `count` variables it updates)."""
    if (parts := as_optimizers(optimizer)) is not None:
        owners = np.array(parts.owners)
        return [(parts[name], owners == name) for name in parts]
    return [(unscaled(optimizer), np.ones(count, bool))]


def _scale_free(optimizer: keras.optimizers.Optimizer) -> bool:
    clips = optimizer.clipnorm, optimizer.clipvalue, optimizer.global_clipnorm
    return isinstance(optimizer, SCALE_FREE) and not any(clips)


def _counting(optimizer: keras.optimizers.Optimizer) -> bool:
    scheduled = not isinstance(optimizer.learning_rate, keras.Variable)
    return scheduled or isinstance(optimizer, COUNTING)


def _networks(plan: StepPlan, row: Flags) -> str:
    names = dict.fromkeys(plan.index.owners[v] for v in np.flatnonzero(row))
    return ", ".join(repr(name) for name in names if name)
