"""One `compile` of a model: what was told, the plan of a step, what the first step found out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from polytape.aggregation import StateStore
from polytape.contract import Tensor, turn_of
from polytape.contract.types import Anything, Flags, Function, Nest
from polytape.differentiation.features import marked
from polytape.differentiation.layer_sizes import LayerSizes
from polytape.differentiation.replicated import division, total
from polytape.differentiation.variables import path_of
from polytape.engines import engine, stand_in
from polytape.training.losses.balance import balanced, together
from polytape.training.losses.evaluation import Batch, Evaluation
from polytape.training.losses.fit_arguments import completed
from polytape.training.losses.fit_data import of_arrays
from polytape.training.losses.keras_losses import KerasLosses
from polytape.training.losses.objective import Step
from polytape.training.losses.objectives import Objectives, batch_size
from polytape.training.losses.running_means import attend, share
from polytape.training.monitor_state import MonitorState
from polytape.training.optimizers.assignment import as_optimizers, assign_owners
from polytape.training.plan import Clock, PhasePlan, Settings, StepPlan, build_plan, owners_of
from polytape.training.reporting.advice import advise, advise_alone, advise_untracked
from polytape.training.reporting.plan_summary import plan_summary
from polytape.training.reporting.table import routing_table
from polytape.training.routing.routes import check_trained, warn_untrained
from polytape.training.settings import bypassed
from polytape.training.statistics import Statistics
from polytape.training.variables import VariableIndex

NO_DATA = Batch(None, None, None)


class Compilation:
    """What a model has compiled.

    settings  what was told;  reached  whether a step came here
    reaches   {objective: (V,) bool}: the variables it has a path to, once that is known
    sizes     {phase: what its forward pass takes}, likewise
    data      of the `fit` that runs, and its batch_size;  snapshot  what its failure would need
    looked_at_stillness  whether a `fit` has been told of it
    monitor   keeps records of the steps of the `fit` that runs, if one was asked for
    """

    def __init__(self, model: keras.Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        model.method_state.detach()
        self.statistics = Statistics(model)
        self._plan: StepPlan | None = None
        self._fitting: Anything = None  # the keys of outputs that fitted
        self._tells = settings.tells
        self._summarises = settings.summarises
        self._told: str | None = None  # the routing table that was shown
        self.reaches: dict[str, Flags] = {}
        self.sizes: dict[int, LayerSizes] = {}
        self.reached = False
        self.data, self.batch_size = NO_DATA, 32
        self.looked_at_stillness = False
        self.snapshot: Anything = None
        self.joined = False  # whether other processes have begun with the same
        self.monitor: MonitorState | None = None
        self._monitor_of: Callable[[StepPlan], MonitorState] | None = None

    # ------------------------------------------------------------------ the plan

    @property
    def planned(self) -> bool:
        """Whether there is a plan: whether objectives and variables are known."""
        return self._plan is not None

    @property
    def plan(self) -> StepPlan:
        """What a step does. RuntimeError before that is known."""
        if self._plan is None:
            raise RuntimeError("The model was trained before its objectives were known.")
        return self._plan

    @property
    def phases(self) -> tuple[PhasePlan, ...]:
        """Those of the plan; none before it is made."""
        return self._plan.phases if self._plan is not None else ()

    def complete(self, outputs: Nest) -> None:
        """Make the plan as soon as names and variables are known."""
        model, settings = self.model, self.settings
        if self._plan is not None or not model.built:
            return
        names = settings.source.names(outputs, self.output_names)
        if names is None:
            return
        names = names or ("loss",)
        index = VariableIndex(model.columns, model.trainable_variables)
        of_objectives = settings.objectives is not None
        if of_objectives:
            index.check_built()
        owners = owners_of(settings, names, index, model.weights)
        saved = model.method_state.loaded_for(owners, of_objectives)
        if (optimizers := as_optimizers(model.optimizer)) is not None:
            assign_owners(optimizers, index)
        clock = Clock(lambda: model.optimizer.iterations, of_objectives, saved)
        stateless = engine().CHOICES_PAY and not model.non_trainable_variables
        plan = build_plan(
            settings, names, index, owners, model.optimizer, clock, saved, stateless, model=model
        )
        self._plan = plan
        metrics = [plan.dropped, *(settings.objectives.metrics if settings.objectives else ())]
        others = model.non_trainable_variables
        seeds = [variable for variable in others if "seed_generator_state" in variable.path]
        states = [
            (owner, phase.aggregator.state)
            for owner, phase in zip(owners, plan.phases, strict=True)
        ]
        model.method_state.attach(StateStore(states, clock.variable), metrics, seeds)
        self._attach_monitor()
        if not any(phase.examples for phase in plan.phases):
            advise_alone(settings.method, names)
        advise_untracked(settings.source.losses, model.variables)

    @property
    def examples_of_a_batch(self) -> int | None:
        """The size of whole batches, where `fit` makes them of arrays."""
        known = self.data.inputs is not None and of_arrays(self.data)
        return self.batch_size if known else None

    @property
    def is_monitored(self) -> bool:
        """Whether a fit has asked for records."""
        return self._monitor_of is not None

    def monitored(self, make: Callable[[StepPlan], MonitorState] | None) -> None:
        """Keep records of the steps from now on, or none.

        make  what keeps them, as soon as there is a plan
        """
        self._monitor_of = make
        if self.monitor is not None:
            self.model.method_state.metrics_leave(self.monitor)
            self.monitor = None
        self._attach_monitor()

    def _attach_monitor(self) -> None:
        if self._monitor_of is not None and self._plan is not None:
            self.monitor = self._monitor_of(self._plan)
            self.model.method_state.metrics_join(self.monitor)

    @property
    def output_names(self) -> Sequence[str]:
        """The model's own names of its outputs, empty if it has none."""
        return tuple(getattr(self.model, "output_names", None) or ())

    def check_outputs(self, outputs: Nest) -> None:
        """Raise if the outputs do not fit the losses, or no longer those of `compile`."""
        source: Anything = self.settings.source  # objectives ask for their own entries
        keys = tuple(outputs) if isinstance(outputs, dict) else None
        if keys and keys == self._fitting:
            return
        source.check_outputs(outputs, self.output_names)
        names = source.names(outputs, self.output_names) or ("loss",)
        if self._plan is not None and names != self._plan.names:
            raise ValueError(
                f"Compiled for the objectives {', '.join(self._plan.names)}; the outputs now give "
                f"{', '.join(names)}. The method's state has a row for each objective: after a "
                "change of outputs call compile() again."
            )
        self._fitting = keys if self._plan is not None else None

    def check_variables(self) -> None:
        """Raise if the model has other trainable variables than when it was compiled."""
        known, now = self.plan.index.variables, self.model.trainable_variables
        if [*map(id, known)] == [*map(id, now)]:
            return
        both = {*map(id, known)} & {*map(id, now)}
        changed = [path_of(v) for v in (*known, *now) if id(v) not in both]
        raise ValueError(
            f"The model had {len(known)} trainable variables when it was compiled and has "
            f"{len(now)} now. Changed: {', '.join(changed[:4])}. After changing `trainable` or "
            "adding layers, call compile() again."
        )

    def check_reached(self) -> None:
        """Raise if a step went past the plan, by a `train_step` that did not look like it."""
        if self.settings.may_bypass and not self.reached:
            raise RuntimeError(bypassed(self.settings.may_bypass, self.settings.method))

    def reseed(self, seed: int) -> None:
        """Draw the random numbers of methods from another base seed."""
        self.settings = dataclasses.replace(self.settings, seed=seed)
        for phase in self.plan.phases:
            phase.aggregator.reseed(seed)

    # ------------------------------------------------------------------ forward

    def outputs(self, x: Nest) -> Nest:
        """The model's outputs in training mode."""
        outputs = self.model(x, **self.settings.training)
        return marked(outputs) if self.settings.measure == "outputs" else outputs

    def total_loss(self, batch: Batch, y_pred: Nest, training: bool, of_keras: Function) -> Tensor:
        """() the total loss for some outputs; whoever listens to the source hears the losses.

        of_keras  Keras's own `compute_loss`
        """
        source = self.settings.source
        if isinstance(source, Objectives):
            return self._of_objectives(source, batch, y_pred, training)
        return self._of_keras_losses(source, batch, y_pred, training, of_keras)

    def _of_objectives(
        self, source: Objectives, batch: Batch, y_pred: Nest, training: bool
    ) -> Tensor:
        """The weighted sum of the objectives that are active, and of added losses."""
        self.complete(y_pred)
        plan = self.plan
        asked, count = source.evaluations.asked or plan.names, plan.clock.read()
        step = Step(*batch[:2], y_pred, plan.index.networks, batch[2], training, count)
        weights = {
            name: weight
            for phase in plan.phases
            if {*phase.names} & {*asked}
            for name, weight in zip(phase.names, ops.unstack(phase.weights(count)), strict=True)
        }
        due, factor = None, 1.0
        if training and (turn := self._turn(asked, count)) is not None:
            due, factor = turn
        evaluation = source.evaluate(step, {name: weights[name] for name in asked}, due)
        evaluation = self._balanced(evaluation, batch, training)
        source.evaluations.tell(evaluation)
        shares = functools.reduce(ops.add, map(stand_in, evaluation.shares))
        if due is not None:
            shares = factor * shares
        added = added_losses(self.model)
        return self._logged(shares if added is None else ops.add(shares, added), training)

    def _balanced(self, evaluation: Evaluation, batch: Batch, training: bool) -> Evaluation:
        kinds = self.settings.source.kinds
        return balanced(evaluation, kinds, batch_size(batch.inputs), training)

    def _logged(self, loss: Tensor, training: bool) -> Tensor:
        """A total loss that is differentiated, in training, or else that of the whole batch."""
        if training or together(training) == 1:
            return loss
        return total(loss) / division()  # by which Keras multiplies it

    def _turn(self, asked: Sequence[str], count: Tensor) -> tuple[Tensor, Tensor] | None:
        """Whose loss is evaluated in step `count`, (T,) bool, and by how much that stands for all.

        None: everybody's. In the mean of T steps the total is then that of all objectives.
        """
        phase = next((p for p in self.plan.phases if p.names == tuple(asked)), None)
        if phase is None or not phase.in_turn:
            return None
        due = turn_of(count, len(phase.names))
        return due, len(phase.names) / ops.sum(ops.cast(due, "float32"))

    def _of_keras_losses(
        self,
        source: KerasLosses,
        batch: Batch,
        y_pred: Nest,
        training: bool,
        of_keras: Function,
    ) -> Tensor:
        """Keras's total loss."""
        x, y, sample_weight = batch
        self.check_outputs(y_pred)
        source.check_targets(y)
        sample_weight = completed(sample_weight, y)
        share(self.model, source, y, y_pred, sample_weight)
        attend(self.model, training)
        loss, notes = source.evaluate(lambda: of_keras(x, y, y_pred, sample_weight, training))
        self.complete(y_pred)
        if source.empty or self._plan is None:
            return loss
        names = self._plan.names
        # Of a list of losses on one output Keras's total holds the first.
        partial = len(names) > 1 and not keras.tree.is_nested(y_pred)
        spread = together(training) > 1
        if not partial and not source.evaluations.heard and not spread:
            return loss
        evaluation = self._balanced(source.evaluation(names, notes), batch, training)
        source.evaluations.tell(evaluation)
        if not spread:
            return loss + sum(evaluation.shares[1:]) if partial else loss
        added = added_losses(self.model)
        terms = [*evaluation.shares, *(() if added is None else (added,))]
        return self._logged(functools.reduce(ops.add, terms), training)

    # ------------------------------------------------------------------ what the first step finds

    def known_reach(self, phase: PhasePlan) -> Flags | None:
        """(T, V) bool: which objective of a phase has a path to which variable; None if unknown."""
        if phase.names[0] not in self.reaches:
            return None
        return np.array([self.reaches[name] for name in phase.names])

    def verify(self, phase: PhasePlan, reach: Flags) -> None:
        """Hold the routes of a phase against what its objectives reach, at its first step.

        reach  (T, V) bool
        """
        objectives, index = self.settings.objectives, self.plan.index
        self.reaches.update(zip(phase.names, reach, strict=True))
        if objectives is None:
            trained: Anything = reach.any(axis=0)
            warn_untrained(
                [v for v, some in zip(index.variables, trained, strict=True) if not some]
            )
            return
        given = [objectives.given[name] for name in phase.names]
        phase.routes.check(reach, given, index)
        if len(self.reaches) == len(self.plan.names):
            routes = self.plan.routes
            both = {name: self.reaches[name] & routes[name] for name in self.plan.names}
            check_trained(np.array([*both.values()]), index)
            advise(self.settings, self.plan, self.model, both)

    def tell(self) -> None:
        """Show the routing table as declared, and again if the first step found out more.

        And what a step costs, as soon as that is known.
        """
        if self._plan is None:
            return
        final = len(self.reaches) == len(self._plan.names)
        if self._summarises and final:
            self._summarises = False
            show(self.summary())
        if not self._tells:
            return
        if self._told is not None and not final:
            return
        self._tells = not final
        table = routing_table(self.settings, self._plan, self.model.optimizer, self.reaches)
        if table != self._told:
            show(table if self._told is None else "\nThe first step found:\n" + table)
        self._told = table

    def summary(self) -> str:
        """What a step costs, as far as it is known."""
        return plan_summary(self.settings, self.plan, self.reaches, self.sizes)


def show(text: str) -> None:
    """Print, in one process of several."""
    if engine().process_number() == 0:
        print(text)


def added_losses(model: keras.Model) -> Tensor | None:
    """() the sum of the model's added losses, if there are any; on a replica its part of it."""
    found = [ops.sum(ops.cast(loss, keras.config.floatx())) for loss in model.losses]
    if not found:
        return None
    whole = ops.sum(ops.stack(found))
    return whole if division() == 1 else whole / division()
