"""What a training step does, decided before it is traced: frozen records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from polytape.aggregation import Aggregator, Owner, Saved
from polytape.aggregation.state import StateVariables
from polytape.contract import Evidence, Method, Tensor, in_float32, iter_methods
from polytape.contract.types import Anything, Flags
from polytape.engines import Measure
from polytape.methods.sum import Sum
from polytape.stages.chain import Chain
from polytape.stages.reweight import Reweight
from polytape.training.dropped import Dropped
from polytape.training.examples import Examples
from polytape.training.losses.keras_losses import KerasLosses
from polytape.training.losses.objective import Objective
from polytape.training.losses.objectives import Objectives
from polytape.training.memory import Noted, fits, needs_rows, wide_layers
from polytape.training.optimizers.assignment import as_optimizers
from polytape.training.phase import Phase
from polytape.training.routing.failure_groups import FailureGroup, failure_groups, one_group
from polytape.training.routing.routes import Routes
from polytape.training.variables import VariableIndex


@dataclass(frozen=True)
class Settings:
    """What `compile` was told, and what is known of the model before its variables are.

    source      the losses: those that Keras evaluates, or objectives
    measure     "parameters" for methods that weigh losses alone: they measure nothing
    seed        of methods that draw random numbers
    tells       whether the routing table is printed;  summarises  whether the plan is, too
    optimizers  in words, by name: read early, as within a traced step a rate is no number
    overrides   whose class has a `compute_loss` of its own; None if nobody's
    loss_mode   the arguments that tell `compute_loss` that it trains
    may_bypass  a user's `train_step` that has to call super(), by name; "" if there is none
    training    the arguments that tell `call` that it trains
    communication  of rows, where several devices have a part of the batch each
    memory      whether rows are formed
    metrics     those given beside the losses, weighted ones included
    """

    method: Method
    source: KerasLosses | Objectives
    phases: tuple[Phase, ...]
    private: str
    measure: Measure
    on_nonfinite: str
    seed: int
    tells: bool
    summarises: bool
    optimizers: Mapping[str, str]
    overrides: str | None
    loss_mode: Mapping[str, bool]
    may_bypass: str
    training: Mapping[str, bool]
    communication: str = "auto"
    memory: str = "auto"
    metrics: Sequence[Anything] = ()

    @property
    def objectives(self) -> Objectives | None:
        """The objectives, if they were given to `compile` as such."""
        return self.source if isinstance(self.source, Objectives) else None

    @property
    def plain(self) -> bool:
        """Whether the method is the sum of the weighted losses, as in Keras."""
        return is_plain(self.method, self.objectives is not None)

    @cached_property
    def takes_apart(self) -> bool:
        """Whether the losses in the total of a user's `compute_loss` are told from the rest.

        Where that total is all that a step differentiates, they need not be.
        """
        if self.overrides is None or self.source.empty:
            return False
        given = self.objectives.given.values() if self.objectives else ()
        routed = any(objective.trains is not None for objective in given)
        return routed or not self.plain or self.on_nonfinite == "isolate"


@dataclass(frozen=True)
class PhasePlan:
    """What a phase does in every step.

    names           its T objectives;  among  their places among all
    variables       V, all that are trained
    failure_groups  which of them stand or fall together in the one backward pass of a method that
                    needs no more
    plain           whether that method is the sum of the weighted losses, as in Keras
    isolates        whether one backward pass over all objectives is taken apart if it is not finite
    rescales        whether the optimizer scales the loss, and lowers the scale on overflow
    steps           how often it is run in one training step
    in_turn         whether after the first step only the loss of the objective in turn is evaluated
    examples        how, if every example is an objective; None: they are not
    noted           the layers whose calls are noted, so that gradients by them need not be formed
    """

    names: tuple[str, ...]
    among: tuple[int, ...]
    variables: Sequence[keras.Variable]
    aggregator: Aggregator
    routes: Routes
    failure_groups: tuple[FailureGroup, ...]
    plain: bool
    isolates: bool = False
    rescales: bool = False
    steps: int = 1
    in_turn: bool = False
    examples: Examples | None = None
    noted: Noted = "none"

    @property
    def one_group(self) -> tuple[FailureGroup, ...]:
        """All objectives stand or fall together."""
        return one_group(*self.routes.allowed.shape)

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
        method = self.aggregator.method
        first = method.stages[0] if isinstance(method, Chain) else method
        if not isinstance(first, Reweight):
            return ones
        seed = self.aggregator.seed(count)
        evidence = Evidence(ones, None, ones > 0, self.names, count, seed)
        variable = self.aggregator.state.named("reweight")[0]
        return first.weigh(evidence, {"reweight": variable.value})[0]


class Clock:
    """The number of training steps made: the optimizer's, or one of its own for objectives.

    A phase, or an optimizer that is not due, does not count as the optimizer's step.
    """

    def __init__(
        self, iterations: Callable[[], Tensor], own: bool, saved: Saved | None = None
    ) -> None:
        """iterations  reads the optimizer's count;  own  whether this one has its own"""
        self._iterations = iterations
        start = np.int32(0) if saved is None or not own else np.int32(saved.clock)
        state = StateVariables(start, keras.Variable, {(): ("clock",)}) if own else None
        self.variable: keras.Variable = None if state is None else state.variables[0]

    def read(self) -> Tensor:
        """() int."""
        if self.variable is not None:
            return self.variable.value
        return ops.add(self._iterations(), 0)  # a tensor, also under accumulation

    def tick(self) -> None:
        """One step more."""
        if self.variable is not None:
            self.variable.assign_add(1)


@dataclass(frozen=True)
class StepPlan:
    """What a training step does: its phases, one after the other.

    names     of all objectives;  index  the variables and their networks
    owners    what the states of the phases belong to, phase by phase
    dropped   counts what was left out
    """

    names: tuple[str, ...]
    index: VariableIndex
    phases: tuple[PhasePlan, ...]
    owners: tuple[Owner, ...]
    clock: Clock
    dropped: Dropped

    @property
    def aggregator(self) -> Aggregator:
        """The method at work, of the first phase."""
        return self.phases[0].aggregator

    @cached_property
    def routes(self) -> dict[str, Flags]:
        """(V,) bool by objective: what it may train."""
        return {
            name: allowed
            for phase in self.phases
            for name, allowed in zip(phase.names, phase.routes.allowed, strict=True)
        }


def noted_layers(
    settings: Settings,
    aggregator: Aggregator,
    allowed: Flags,
    index: VariableIndex,
    model: keras.Model,
) -> Noted:
    """Of which layers the calls are noted in the step of a phase, so that no rows are formed.

    allowed  (T, V) bool: what each objective may train
    """
    if settings.memory == "high" or aggregator.single_pass or settings.measure != "parameters":
        return "none"
    if needs_rows(settings.method, settings.takes_apart) is not None:
        return "none"
    if settings.memory == "low" or not fits(allowed, index.variables):
        return "large"
    combination = aggregator.combination or aggregator.method
    pays = combination.sums_rows and keras.distribution.distribution() is None
    by_labels = settings.objectives is None or not any(
        objective.of_step for objective in settings.objectives.given.values()
    )
    return "cheaper" if pays and by_labels and wide_layers(model) else "none"


def owners_of(
    settings: Settings, names: tuple[str, ...], index: VariableIndex, weights: Sequence[Anything]
) -> tuple[Owner, ...]:
    """What the states of the phases belong to, phase by phase.

    names  of all objectives;  weights  all of the model
    """
    method, objectives = settings.method, settings.objectives
    trained = None
    remembers = any(part.memory for part in iter_methods(method))
    if remembers or method.scope == "variable":
        places = {id(variable): place for place, variable in enumerate(weights)}
        trained = [places[id(variable)] for variable in index.variables]
    found = []
    for phase in settings.phases:
        own = tuple(phase.objectives) if objectives else names
        known = objectives.weights(own) if objectives else None
        found.append(Owner(own, method, settings.private, known, trained))
    return tuple(found)


def build_plan(
    settings: Settings,
    names: tuple[str, ...],
    index: VariableIndex,
    owners: tuple[Owner, ...],
    optimizer: keras.optimizers.Optimizer,
    clock: Clock,
    saved: Saved | None = None,
    stateless: bool = False,
    *,
    model: keras.Model,
) -> StepPlan:
    """The plan for objectives and variables that are known.

    optimizer  that of the model, which knows already whose each variable is
    saved      states to go on from;  stateless  whether no forward pass changes a variable
    """
    objectives = settings.objectives
    optimizers = as_optimizers(optimizer)
    rescales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    # What goes on as a whole has one group.
    whole = optimizers is None or rescales or settings.on_nonfinite in ("skip", "isolate")
    phases: list[PhasePlan] = []
    for owner, phase in zip(owners, settings.phases, strict=True):
        own = owner.objectives
        given = [objectives.given[name] for name in own] if objectives else []
        method = weighted(settings.method, given, objectives.starts) if objectives else owner.method
        routes = Routes.anywhere(len(own), len(index.variables))
        if given:
            routes = Routes.declared(given, index)
        if settings.measure != "parameters" and not routes.open:
            raise ValueError(
                f'measure="{settings.measure}" sends one backward pass through the network for all '
                "objectives, so none can have a route of its own. Leave out `trains`, or use "
                'measure="parameters".'
            )
        groups = one_group(*routes.allowed.shape)
        if not whole and optimizers is not None:
            groups = failure_groups(routes.allowed, optimizers.owners or ())
        aggregator = Aggregator(
            method,
            own,
            index.paths,
            keras.Variable,
            settings.private,
            settings.seed,
            saved=None if saved is None else saved.arrays(owner),
            shapes=[variable.shape for variable in index.variables],
            networks=index.owners if given else None,
            label=("method",) if len(owners) == 1 else ("method", f"phase_{len(phases)}"),
            variables=index.variables,
        )
        among = tuple(names.index(name) for name in own)
        examples = None
        if any(objective.per is not None for objective in given) and not settings.plain:
            examples = Examples.of(given, settings.method, index, settings.seed, settings.measure)
        noted: Noted = "none"
        if examples is None:
            noted = noted_layers(settings, aggregator, routes.allowed, index, model)
        plan = PhasePlan(
            own,
            among,
            index.variables,
            aggregator,
            routes,
            groups,
            settings.plain,
            isolates=settings.on_nonfinite == "isolate",
            rescales=rescales,
            steps=phase.steps,
            examples=examples,
            noted=noted,
            in_turn=stateless and aggregator.round_robin and _apart(settings, given, phase),
        )
        phases.append(plan)
    return StepPlan(names, index, tuple(phases), owners, clock, Dropped(names))


def _apart(settings: Settings, given: Sequence[Objective], phase: Phase) -> bool:
    """Whether each objective of a phase makes what it needs of the networks itself."""
    own = bool(given) and all(objective.of_step for objective in given)
    return own and settings.overrides is None and phase.steps == 1


def is_plain(method: Method, of_objectives: bool) -> bool:
    """Whether a method is the sum of the weighted losses, as in Keras."""
    if method == Sum():
        return True
    stages = method.stages if isinstance(method, Chain) and of_objectives else ()
    return len(stages) == 2 and isinstance(stages[0], Reweight) and stages[1] == Sum()


def weighted(
    method: Method,
    given: Sequence[Objective],
    starts: Mapping[str, float | LearningRateSchedule],
) -> Method:
    """The method behind a stage that holds the weights of the objectives, which start so."""
    if any(isinstance(part, Reweight) for part in iter_methods(method)):
        named = [objective.name for objective in given if objective.weight != 1.0]
        if named:
            raise ValueError(
                f"Objective {named[0]!r} has a weight, and `combine` has a Reweight stage. Give "
                "the weights in one place."
            )
        return method
    return Chain(Reweight({objective.name: starts[objective.name] for objective in given}), method)


def never_evaluated(owner: str | None, method: Method) -> str:
    """What is wrong with a total of which no loss is known."""
    return (
        f"{owner} overrides compute_loss, and its total is one number: {type(method).__name__} "
        'finds no losses in it to combine, and would do what "sum" does. Give the losses to '
        "compile(loss=...) and add to what super().compute_loss(x, y, y_pred, sample_weight, "
        "training) returns; or write each as an objective, compile(objectives=[pt.Objective("
        '"name", function_of_the_step)]); or use combine="sum".'
    )
