"""One phase of the training step, decided: its objectives, their routes, the method at work."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.aggregation import Aggregator, Owner, Saved
from polytape.aggregation.state import StateVariables
from polytape.contract import Evidence, Method, Tensor, in_float32, iter_methods
from polytape.differentiation.jacobian import path_of
from polytape.methods.sum import Sum
from polytape.stages.chain import Chain
from polytape.stages.reweight import Reweight
from polytape.training.objectives.objective import Objective
from polytape.training.optimizers.assignment import as_optimizers
from polytape.training.routing.failure_groups import FailureGroup, failure_groups, one_group
from polytape.training.routing.routes import Routes


@dataclass(frozen=True)
class PhasePlan:
    """What a phase does in every step.

    names  its T objectives;  among  their places among all;  bonds  which of them stand or fall
    together in the one backward pass of a method that needs no more;  plain  whether that method is
    the sum of the weighted losses, as in Keras
    """

    names: tuple[str, ...]
    among: tuple[int, ...]
    aggregator: Aggregator
    routes: Routes
    bonds: tuple[FailureGroup, ...]
    plain: bool

    def spread(self, values: Tensor, count: int) -> Tensor:
        """(T,) bool of its objectives as (count,) of all, false for the others."""
        if len(self.among) == count:
            return values
        places = np.eye(count, dtype="float32")[list(self.among)]
        return ops.matmul(ops.cast(values, "float32"), places) > 0

    @in_float32
    def weights(self, count: Tensor) -> Tensor:
        """(T,) the weights that its objectives have in step `count`, before any method."""
        ones = ops.ones((len(self.names),))
        stage = leading_reweight(self.aggregator.method)
        if stage is None:
            return ones
        seed = self.aggregator.seed(count)
        evidence = Evidence(ones, None, ones > 0, self.names, count, seed)
        variable = self.aggregator.state.named("reweight")[0]
        return stage.weigh(evidence, {"reweight": variable.value})[0]


class Clock:
    """The number of training steps made: the optimizer's, or one of its own for objectives.

    A phase, or an optimizer that is not due, does not count as the optimizer's step.
    """

    def __init__(self, model: Any, own: bool, saved: Saved | None) -> None:
        self._model = model
        start = np.int32(0) if saved is None or not own else np.int32(saved.clock)
        state = StateVariables(start, keras.Variable, {(): ("clock",)}) if own else None
        self.variable: Any = None if state is None else state.variables[0]

    def read(self) -> Tensor:
        """() int."""
        if self.variable is not None:
            return self.variable.value
        return ops.add(self._model.optimizer.iterations, 0)  # a tensor, also under accumulation

    def tick(self) -> None:
        """One step more."""
        if self.variable is not None:
            self.variable.assign_add(1)


def owners(plan: Any) -> list[Owner]:
    """What the states of the phases belong to, phase by phase."""
    trained = None
    remembers = any(part.memory for part in iter_methods(plan.method))
    if remembers or plan.method.scope == "variable":
        places = {id(variable): place for place, variable in enumerate(plan.model.weights)}
        trained = [places[id(variable)] for variable in plan.places.variables]
    found: list[Owner] = []
    for phase in plan.phases:
        names = tuple(phase.objectives) if plan.objectives else plan.names
        weights = plan.objectives.weights(names) if plan.objectives else None
        found.append(Owner(names, plan.method, plan.private, weights, trained))
    return found


def chart(plan: Any, owners: Sequence[Owner], saved: Saved | None) -> list[PhasePlan]:
    """The courses of a plan whose names and variables are known.

    owners  of the states of its phases;  saved  states to go on from
    """
    objectives = plan.objectives
    variables = plan.places.variables
    paths = tuple(path_of(variable) for variable in variables)
    sizes = [math.prod(variable.shape) for variable in variables]
    found: list[PhasePlan] = []
    for owner in owners:
        names = owner.objectives
        given = [objectives.given[name] for name in names] if objectives else []
        method = weighted(plan.method, given, objectives.starts) if given else plan.method
        routes = Routes.anywhere(len(names), len(variables))
        if given:
            routes = Routes.declared(given, plan.places)
        if plan.measure != "parameters" and not routes.open:
            raise ValueError(
                f'measure="{plan.measure}" sends one backward pass through the network for all '
                "objectives, so none can have a route of its own. Leave out `trains`, or use "
                'measure="parameters".'
            )
        networks = plan.places.owners if given else None
        aggregator = Aggregator(
            method,
            names,
            paths,
            keras.Variable,
            plan.private,
            plan.seed,
            saved=None if saved is None else saved.arrays(owner),
            sizes=sizes,
            networks=networks,
            label=("method",) if len(owners) == 1 else ("method", f"phase_{len(found)}"),
        )
        among = tuple(plan.names.index(name) for name in names)
        plain = is_plain(method, bool(given))
        found.append(PhasePlan(names, among, aggregator, routes, _bonds(plan, routes), plain))
    return found


def is_plain(method: Method, of_objectives: bool) -> bool:
    """Whether a method is the sum of the weighted losses, as in Keras."""
    if method == Sum():
        return True
    stages = method.stages if isinstance(method, Chain) and of_objectives else ()
    return len(stages) == 2 and isinstance(stages[0], Reweight) and stages[1] == Sum()


def _bonds(plan: Any, routes: Routes) -> tuple[FailureGroup, ...]:
    """Parts of a step that can go on without the others: none where it goes on as a whole."""
    optimizers = as_optimizers(plan.model.optimizer)
    if optimizers is None or plan.rescales or plan.on_nonfinite in ("skip", "isolate"):
        return one_group(*routes.allowed.shape)
    return failure_groups(routes.allowed, optimizers.owners or ())


def weighted(method: Method, given: Sequence[Objective], starts: Mapping[str, Any]) -> Method:
    """The method behind a stage that holds the weights of the objectives.

    starts  {objective: number or schedule}
    """
    if any(isinstance(part, Reweight) for part in iter_methods(method)):
        named = [objective.name for objective in given if objective.weight != 1.0]
        if named:
            raise ValueError(
                f"Objective {named[0]!r} has a weight, and `combine` has a Reweight stage. Give "
                "the weights in one place."
            )
        return method
    return Chain(Reweight({objective.name: starts[objective.name] for objective in given}), method)


def leading_reweight(method: Method) -> Reweight | None:
    """The stage that holds the weights of the objectives, if the method begins with one."""
    first = method.stages[0] if isinstance(method, Chain) else method
    return first if isinstance(first, Reweight) else None
