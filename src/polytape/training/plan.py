"""What `compile` decides for the step: objectives, phases, methods, rules for bad values."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from polytape.aggregation import Aggregator, StateStore, check_private
from polytape.aggregation.seeds import peeked
from polytape.contract import Method, Tensor, check_seed, is_number, iter_methods, received
from polytape.differentiation.features import marked
from polytape.differentiation.jacobian import path_of
from polytape.differentiation.measured import check_measure
from polytape.engines import Recording
from polytape.stages.reweight import Reweight, check_names
from polytape.training.dropped import Dropped
from polytape.training.objectives.culprits import culprits, spoilt
from polytape.training.objectives.losses import Ledger
from polytape.training.objectives.objectives import Objectives
from polytape.training.objectives.returned import Returned
from polytape.training.objectives.values import never_evaluated
from polytape.training.optimizers.assignment import as_optimizers, assign_owners
from polytape.training.overrides import loss_mode, reaches_super
from polytape.training.phase import Phase
from polytape.training.phase_plan import Clock, PhasePlan, chart, is_plain, owners
from polytape.training.routing.advice import advise, advise_alone, advise_untracked, combines
from polytape.training.routing.routes import VariableIndex, check_trained, warn_untrained
from polytape.training.routing.table import described, routing_table
from polytape.training.statistics import Statistics

ON_NONFINITE = ("drop", "isolate", "skip", "raise")


class Plan:
    """The decisions of one `compile`. Completed when outputs and variables are known.

    source   the losses: a `Ledger` of those that Keras evaluates, or `Objectives`
    phases   what follows each other in a training step; courses: what is decided for each of them
    """

    def __init__(
        self,
        model: Any,
        holder: Any,
        source: Ledger | Objectives,
        method: Method,
        private: str,
        on_nonfinite: str,
        seed: int | None,
        measure: str = "parameters",
        phases: Sequence[Phase] = (),
        verbose: int = 0,
    ) -> None:
        if on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"`on_nonfinite` says what to do with a loss or gradient that is not finite: one "
                f"of {ON_NONFINITE}. Received: {on_nonfinite!r}."
            )
        self.model, self.source, self.method = model, source, method
        self.holder = holder
        holder.release()
        self.private, self.on_nonfinite = check_private(private), on_nonfinite
        self.seed = peeked() if seed is None else check_seed(seed)
        measure = check_measure(measure, method)
        # A method that weighs losses alone measures nothing.
        self.measure = "parameters" if method.needs == "losses" else measure
        self.phases = list(phases) or [Phase("loss")]
        # Read now: within a traced step a rate is no number.
        self.optimizers = described(model.optimizer)
        tells = verbose > 1 or (verbose == 1 and _has_routes(source, model.optimizer))
        self._tells = tells and isinstance(source, Objectives)
        self._told: str | None = None  # the routing table that was shown
        self.overrides: str | None = model.overriding("compute_loss")
        self.loss_mode = loss_mode(model, True)
        self.apart = self._takes_apart()
        self.may_bypass = ""  # a user's train_step that has to call super()
        self.reached = False  # whether one did
        self._check_overrides()
        self._checked: Any = None  # the keys of outputs that fitted
        self.statistics = Statistics(self)
        self.kept: Any = None  # what the engine needs to undo a failing first step
        self.data: Any = None, None  # the inputs and targets of the `fit` that runs
        self.names: tuple[str, ...] = ()
        self.courses: list[PhasePlan] = []
        self.routes: dict[str, np.ndarray] = {}  # (V,) bool by objective: what it may train
        self.reaches: dict[str, np.ndarray] = {}  # and what it reaches, once that is known
        self._training = {"training": True} if model.takes_training else {}

    @property
    def objectives(self) -> Objectives | None:
        """The objectives, if they were given to `compile` as such."""
        return self.source if isinstance(self.source, Objectives) else None

    def _takes_apart(self) -> bool:
        """Whether the losses in the total of a user's `compute_loss` are told from the rest.

        Where that total is all that a step differentiates, they need not be.
        """
        if self.overrides is None or self.source.empty:
            return False
        given = self.objectives.given.values() if self.objectives else ()
        routed = any(objective.trains is not None for objective in given)
        plain = is_plain(self.method, self.objectives is not None)
        return routed or not plain or self.on_nonfinite == "isolate"

    def _check_overrides(self) -> None:
        """Raise if a class overrides so much that the losses would not be combined."""
        plain = is_plain(self.method, self.objectives is not None)
        if self.overrides is not None:
            if self.source.empty and combines(self.method):
                raise ValueError(never_evaluated(self.overrides, self.method))
            if any(part.samples for part in iter_methods(self.method)):
                raise ValueError(
                    f"{type(self.method).__name__} compares the losses of single samples, and "
                    f"{self.overrides} overrides compute_loss, whose total is of the whole batch. "
                    "Write what it adds as an objective of its own, or choose another method."
                )
        owner = self.model.overriding("train_step")
        if owner is None or (plain and self.objectives is None):
            return
        self.may_bypass = f"{owner}.train_step"
        if not reaches_super(self.model.train_step, "train_step"):
            raise ValueError(self._bypassed())

    def _bypassed(self) -> str:
        return (
            f"{self.may_bypass} does not call super().train_step(...), which is where losses are "
            f"combined: {type(self.method).__name__} would do nothing. Call it there; or leave "
            "train_step alone and give the losses to compile(), with phases=[...] where one is to "
            'follow another; or use combine="sum" with loss=, as plain Keras.'
        )

    def check_reached(self) -> None:
        """Raise if a step went past this plan, by a `train_step` that did not look like it."""
        if self.may_bypass and not self.reached:
            raise RuntimeError(self._bypassed())

    def returned(self, recording: Recording, course: PhasePlan) -> Returned:
        """A recording of a total that a user's `compute_loss` returned, taken apart."""
        of = self.source.gathered_of(course.names)
        return Returned(recording, course.names, of, f"{self.overrides}.compute_loss")

    # ------------------------------------------------------------------ completion

    def complete(self, outputs: Any) -> None:
        """Settle names, method state and counters as soon as they can be known."""
        if self.courses or not self.model.built:
            return
        names = self.source.names(outputs, self.output_names())
        if names is None:
            return
        self.names = names or ("loss",)
        self.places = VariableIndex(self.model.columns, self.model.trainable_variables)
        if self.objectives is not None:
            self.places.check_built()
        owning = owners(self)
        saved = self.holder.claim(owning, self.objectives is not None)
        self.clock = Clock(self.model, self.objectives is not None, saved)
        if (optimizers := as_optimizers(self.model.optimizer)) is not None:
            assign_owners(optimizers, self.places)
        courses = chart(self, owning, saved)
        self.routes = {
            name: allowed
            for course in courses
            for name, allowed in zip(course.names, course.routes.allowed, strict=True)
        }
        self.dropped = Dropped(self.names)
        self.courses = courses
        metrics = [self.dropped, *(self.objectives.metrics if self.objectives else ())]
        others = self.model.non_trainable_variables
        seeds = [variable for variable in others if "seed_generator_state" in variable.path]
        states = [
            (owner, course.aggregator.state) for owner, course in zip(owning, courses, strict=True)
        ]
        self.holder.hold(StateStore(states, self.clock.variable), metrics, seeds)
        advise_alone(self)
        advise_untracked(self)

    @property
    def own_variables(self) -> list[Any]:
        """The variables of clock and methods."""
        return list(self.holder.variables)

    def check_outputs(self, outputs: Any) -> None:
        """Raise if the outputs do not fit the losses, or no longer those of `compile`."""
        ledger: Any = self.source  # objectives ask for their own entries
        ledger.clear()
        keys = tuple(outputs) if isinstance(outputs, dict) else None
        if keys and keys == self._checked:
            return  # the ledger still asks whether every loss was computed
        ledger.check_outputs(outputs, self.output_names())
        names = ledger.names(outputs, self.output_names()) or ("loss",)
        if self.names and names != self.names:
            raise ValueError(
                f"Compiled for the objectives {', '.join(self.names)}; the outputs now give "
                f"{', '.join(names)}. The method's state has a row for each objective: after a "
                "change of outputs call compile() again."
            )
        self._checked = keys if self.names else None

    def output_names(self) -> Sequence[str]:
        """The model's own names of its outputs, empty if it has none."""
        return tuple(getattr(self.model, "output_names", None) or ())

    @property
    def aggregator(self) -> Aggregator:
        """The method at work, of the first phase."""
        return self.course(0).aggregator

    def course(self, phase: int) -> PhasePlan:
        """What is decided for a phase."""
        if not self.courses:
            raise RuntimeError("The model was trained before its objectives were known.")
        known, now = self.places.variables, self.model.trainable_variables
        if [*map(id, known)] != [*map(id, now)]:
            both = {*map(id, known)} & {*map(id, now)}
            changed = [path_of(v) for v in (*known, *now) if id(v) not in both]
            raise ValueError(
                f"The model had {len(known)} trainable variables when it was compiled and has "
                f"{len(now)} now. Changed: {', '.join(changed[:4])}. After changing `trainable` or "
                "adding layers, call compile() again."
            )
        return self.courses[phase]

    # ------------------------------------------------------------------ the step's needs

    def forward(self, x: Any) -> Any:
        """The model's outputs in training mode."""
        outputs = self.model(x, **self._training)
        return marked(outputs) if self.measure == "outputs" else outputs

    def present(self, course: PhasePlan) -> Tensor | None:
        """(T,) bool: which objectives of a phase are active in this step; None: always all."""
        if isinstance(self.source, Objectives):
            return self.source.present(course.names)
        return self.source.present(course.names, as_keras=course.plain)

    def loss_tracker(self) -> Any:
        """Keras's running mean of the total loss."""
        return self.model.running_loss

    @property
    def rescales(self) -> bool:
        """Whether the optimizer scales the loss and lowers the scale on overflow."""
        return isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)

    def verify(
        self, course: PhasePlan, recording: Recording, directions: Sequence[Tensor | None]
    ) -> None:
        """Hold the routes of a phase against what its objectives reach, at its first step."""
        if course.names[0] in self.reaches:
            return
        if self.objectives is None:
            self.reaches[course.names[0]] = np.array([g is not None for g in directions])
            pairs = zip(self.places.variables, directions, strict=True)
            warn_untrained([variable for variable, gradient in pairs if gradient is None])
            return
        given = [self.objectives.given[name] for name in course.names]
        reach = recording.reach(range(len(given)))
        course.routes.check(reach, given, self.places)
        self.reaches.update(zip(course.names, reach, strict=True))
        if len(self.reaches) == len(self.names):
            trained = {name: self.reaches[name] & self.routes[name] for name in self.names}
            check_trained(np.array([*trained.values()]), self.places)
            advise(self, trained)

    def tell(self) -> None:
        """Show the routing table as declared, and again if the first step found out more."""
        if not self._tells or not self.courses:
            return
        final = len(self.reaches) == len(self.names)
        if self._told is not None and not final:
            return
        self._tells = not final
        table = routing_table(self)
        if table != self._told:
            print(table if self._told is None else "\nThe first step found:\n" + table)
        self._told = table

    # ------------------------------------------------------------------ between steps

    def whole(self, total: Tensor, outputs: Any) -> Tensor:
        """Keras's total loss, completed: of a list of losses on one output it holds the first."""
        if keras.tree.is_nested(outputs) or len(self.names) < 2:
            return total
        return total + sum(self.source.returned(self.names)[1:])

    def raise_if_dropped(self) -> None:
        """Raise if the user asked for it and an objective was left out."""
        if self.on_nonfinite == "raise" and (named := self.dropped.describe()):
            raise FloatingPointError(
                f"A loss, gradient or weight is not finite: {named}.{self.culprits()} No variable "
                f"was touched by it. {self.bad_weights()}Look for log or division of zero, an "
                "exploding loss, or NaN in the data of that objective."
            )

    def culprits(self) -> str:
        """What is not finite in the data of the `fit` that runs and in the model, as sentences."""
        x, y = self.data
        keys: dict[str, Any] = {name: name for name in self.dropped.left_out()}
        if self.objectives is not None:
            given = [self.objectives.given[name] for name in keys]
            keys = {one.name: one.target for one in given if not one.of_step}
        places = {name: self.names.index(name) for name in keys}
        held = [*self.model.weights, *self.model.optimizer.variables]
        own = [variable for variable in held if "reweight" not in variable.path]  # `bad_weights`
        return culprits(x, y, keys, places) + spoilt(own)

    def bad_weights(self) -> str:
        """A sentence for each objective whose weight was not finite in the last step."""
        last = ops.maximum(ops.cast(self.clock.read(), "int32") - 1, 0)
        pairs = [
            (name, weight)
            for course in self.courses
            for name, weight in zip(
                course.names, ops.convert_to_numpy(course.weights(last)), strict=True
            )
        ]
        return "".join(
            f"The weight of {name!r} is {weight}. "
            for name, weight in pairs
            if not np.isfinite(weight)
        )

    def reweight(self, weights: Mapping[str, float]) -> None:
        """Write into the `Reweight` states what a user asked for."""
        check_names(weights, self.names)
        if not self._reweighted():
            raise ValueError(
                "reweight() changes the weights of a Reweight stage, and `combine` has none. "
                "Compile with combine=pt.Chain(pt.Reweight(), ...)."
            )
        for name, weight in weights.items():
            if not is_number(weight) or not np.isfinite(weight):
                raise ValueError(
                    f"reweight({{{name!r}: ...}}): a weight must be a finite number. "
                    f"{received(weight)}"
                )
            self._check_free(name)
        self.follow(weights)

    def follow(self, weights: Mapping[str, float]) -> None:
        """Write weights into the `Reweight` states as they are."""
        for course, variable in self._reweighted():
            numbers = ops.convert_to_numpy(variable.value).copy()
            for name in set(weights) & set(course.names):
                numbers[course.names.index(name)] = weights[name]
            variable.assign(numbers)

    def _reweighted(self) -> list[tuple[PhasePlan, keras.Variable]]:
        """The states of the `Reweight` stages, and the phases that they belong to."""
        return [(c, v) for c in self.courses for v in c.aggregator.state.named("reweight")]

    def _check_free(self, name: str) -> None:
        """Raise if the weight of an objective follows something else than `reweight`."""
        given = self.objectives.given[name].weight if self.objectives is not None else None
        stages = [part for part in iter_methods(self.method) if isinstance(part, Reweight)]
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


def _has_routes(source: Ledger | Objectives, optimizer: Any) -> bool:
    """Whether it was said who trains what."""
    if not isinstance(source, Objectives):
        return False
    declared = any(objective.trains is not None for objective in source.given.values())
    return declared or as_optimizers(optimizer) is not None
