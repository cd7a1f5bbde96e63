"""Weights of objectives that change while training runs."""

from collections.abc import Mapping

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from polytape.contract import is_number, iter_methods, received
from polytape.stages.reweight import Reweight, check_names
from polytape.training.compilation import Compilation
from polytape.training.plan import PhasePlan


def reweight(compilation: Compilation, weights: Mapping[str, float]) -> None:
    """Write into the `Reweight` states what a user asked for.

    Raises ValueError for what is no finite number, no objective, or follows something else.
    """
    check_names(weights, compilation.plan.names)
    if not _states(compilation):
        raise ValueError(
            "reweight() changes the weights of a Reweight stage, and `combine` has none. "
            "Compile with combine=pt.Chain(pt.Reweight(), ...)."
        )
    for name, weight in weights.items():
        if not is_number(weight) or not np.isfinite(weight):
            raise ValueError(
                f"reweight({{{name!r}: ...}}): a weight must be a finite number. {received(weight)}"
            )
        _check_free(compilation, name)
    write_weights(compilation, weights)


def write_weights(compilation: Compilation, weights: Mapping[str, float]) -> None:
    """Write weights into the `Reweight` states as they are."""
    for phase, variable in _states(compilation):
        numbers = variable.numpy().copy()
        for name in set(weights) & set(phase.names):
            numbers[phase.names.index(name)] = weights[name]
        variable.assign(numbers)


def live_weights(compilation: Compilation) -> dict[str, float]:
    """The weights of objectives that are variables, as they are now."""
    objectives = compilation.settings.objectives
    given = objectives.given.values() if objectives is not None else ()
    return {
        objective.name: float(objective.weight.numpy())
        for objective in given
        if isinstance(objective.weight, keras.Variable)
    }


def _states(compilation: Compilation) -> list[tuple[PhasePlan, keras.Variable]]:
    """The states of the `Reweight` stages, and the phases that they belong to."""
    phases = compilation.phases
    return [(p, v) for p in phases for v in p.aggregator.state.named("reweight")]


def _check_free(compilation: Compilation, name: str) -> None:
    """Raise if the weight of an objective follows something else than `reweight`."""
    objectives, method = compilation.settings.objectives, compilation.settings.method
    given = objectives.given[name].weight if objectives is not None else None
    stages = [part for part in iter_methods(method) if isinstance(part, Reweight)]
    sources = [given, *(stage.weights.get(name) for stage in stages)]
    if any(isinstance(source, keras.Variable) for source in sources):
        raise ValueError(
            f"The weight of {name!r} is a keras.Variable, which is read before every step: "
            "change that, variable.assign(0.5), instead of reweight()."
        )
    if any(isinstance(source, LearningRateSchedule) for source in sources):
        raise ValueError(
            f"The weight of {name!r} follows a schedule, which reweight() cannot change. Give "
            "a number or a keras.Variable as its weight."
        )
