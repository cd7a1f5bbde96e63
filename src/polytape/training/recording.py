"""One forward pass of a phase: the losses it comes to, ready to be differentiated."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from keras import ops

from polytape.contract import Tensor
from polytape.contract.cached import cached
from polytape.contract.types import Anything, Flags, Nest
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.layer_calls import Chooses
from polytape.differentiation.layer_recording import record_layers, unformed
from polytape.differentiation.layer_sizes import LayerSizes
from polytape.differentiation.losses import check_scalar
from polytape.differentiation.passes import Directions, Parts, at_once
from polytape.differentiation.per_example import record_examples
from polytape.differentiation.replicated import alone, in_slices, joined, over_replicas
from polytape.differentiation.table import Table, table_of
from polytape.engines import Forward, GroupName, Recording, Scalars, engine
from polytape.training.compilation import Compilation, added_losses
from polytape.training.losses.evaluation import Batch, Evaluation
from polytape.training.losses.evaluation import Parts as PartsOfLoss
from polytape.training.losses.masks import masks_of
from polytape.training.losses.missing_labels import Terms
from polytape.training.losses.returned_total import Called, ReturnedTotal
from polytape.training.memory import chosen
from polytape.training.plan import PhasePlan, Settings, never_evaluated
from polytape.training.together import at_step


@dataclass(frozen=True)
class PhaseLosses:
    """What a forward pass yields that is to be differentiated.

    losses   () each: of the T objectives, weighted where nothing but their sum is wanted
    total    () their weighted sum, with everything that is added
    extra    () what is added to the combination as it is (`add_loss`, weight regularisers), if
             there is anything
    parts    {kind of evidence: what it had recorded}, T scalars or vectors each
    present  (T,) bool: objectives that are active in this step; None: all of them
    terms    what the loss of each objective is the sum of, weighted, if every example is one
    called   where the losses are to be found in the total of a user's `compute_loss`: of which
             objective each is, in the order in which that had them evaluated, as often as it did
    """

    losses: Sequence[Tensor]
    total: Tensor
    extra: Tensor | None = None
    parts: Mapping[str, Sequence[Sequence[Tensor]]] = field(default_factory=dict)
    present: Tensor | None = None
    called: tuple[int, ...] | None = None
    terms: Sequence[Terms] = ()

    @property
    def groups(self) -> dict[GroupName, Sequence[Tensor]]:
        """The same by name, as an engine records it."""
        losses: GroupName = "losses" if self.called is None else Called(self.called)
        extra = [] if self.extra is None else [self.extra]
        parts: dict[GroupName, Sequence[Tensor]] = {
            (kind, number): found
            for kind, each in self.parts.items()
            for number, found in enumerate(each)
        }
        terms: dict[GroupName, Sequence[Tensor]] = {}
        if self.terms:
            terms["terms"] = [each.values for each in self.terms]
        return {losses: self.losses, "extra": extra, "total": [self.total], **parts, **terms}


class PhaseRecording:
    """A recorded forward pass of T objectives over V variables, each on its route.

    phase      what is decided for the phase;  step  () int, of the phase
    scale      () what everything is to be multiplied by: that of loss scaling
    present    (T,) bool: objectives that are active in this step; None: all of them
    monitored  whether a monitor asks for weights and gradients
    counted    of each objective which terms of its loss count, if every example is one;  batch  the
               examples of a whole batch, where `fit` was told
    """

    def __init__(
        self,
        recording: Recording,
        phase: PhasePlan,
        step: Tensor,
        scale: Tensor,
        present: Tensor | None = None,
        reach: Flags | None = None,
        monitored: bool = False,
        counted: Sequence[Tensor] = (),
        batch: int | None = None,
    ) -> None:
        """reach  (T, V) bool: what each objective reaches, if an earlier step has found it out"""
        self.recording, self.phase, self.step, self.scale = recording, phase, step, scale
        self.present, self.monitored = present, monitored
        self.known_reach, self.counted, self.batch = reach, counted, batch
        groups = recording.groups
        self.objectives = range(len(phase.names))
        self.losses = [recording.scalars[place] for place in groups["losses"]]
        (self.total,) = groups["total"]
        self.extra = groups["extra"][0] if groups["extra"] else None
        # An extra term belongs to every objective.
        self.failure_groups = phase.failure_groups if self.extra is None else phase.one_group

    # ------------------------------------------------------------------ values

    @property
    def total_loss(self) -> Tensor:
        """() as it is logged."""
        return self.recording.scalars[self.total]

    @cached
    def loss_vector(self) -> Tensor:
        """(T,) float32."""
        return ops.cast(engine().stack(self.losses), "float32")

    @property
    def named_losses(self) -> dict[str, Tensor]:
        return dict(zip(self.phase.names, self.losses, strict=True))

    @property
    def added(self) -> list[Tensor]:
        """The value of the extra term, if there is one."""
        found = () if self.extra is None else (self.recording.scalars[self.extra],)
        return [ops.cast(value, "float32") for value in found]

    @cached
    def finite_losses(self) -> Tensor:
        """(T,) bool."""
        return ops.isfinite(self.loss_vector)

    @cached
    def active(self) -> Tensor:
        """(T,) bool: objectives of this step with a finite loss."""
        return self.of_those_present(self.finite_losses)

    @property
    def wanted(self) -> Tensor:
        """(T,) bool: objectives of this step."""
        return self.of_those_present(ops.ones((len(self.losses),), "bool"))

    def counting(self, objectives: Sequence[int]) -> list[Tensor]:
        """The losses of some objectives, in one tensor or several; zero if not of this step."""
        if len(objectives) == len(self.losses):
            whole = self.loss_vector
            return [whole if self.present is None else ops.where(self.present, whole, 0.0)]
        if self.present is None:
            return [self.losses[t] for t in objectives]
        return [ops.where(self.present[t], self.losses[t], 0.0) for t in objectives]

    def of_those_present(self, flags: Tensor) -> Tensor:
        """(T,) bool: false for objectives that are not active in this step."""
        return flags if self.present is None else flags & self.present

    # ------------------------------------------------------------------ paths

    @cached
    def reach(self) -> Flags:
        """(T, V) bool: which objective has a path to which variable, on its route or off it."""
        if self.known_reach is not None:
            return self.known_reach
        return self.recording.reach(self.recording.groups["losses"])

    @cached
    def connectivity(self) -> Connectivity:
        """Which objective reaches which variable on its route, before anything is differentiated.

        Raises ValueError if one reaches none.
        """
        phase = self.phase
        joint = phase.aggregator.private == "joint"
        reach = phase.routes.within(self.reach)
        found = Connectivity(phase.names, phase.aggregator.paths, reach, joint)
        found.check()
        return found

    def trained(self, reach: Flags | None = None) -> Flags:
        """(T, V) bool: which objective reaches which variable on its route.

        reach  the same, if it is known
        """
        return self.connectivity.reach if reach is None else reach

    def parts(self, kind: str) -> list[range]:
        """Of each thing that a kind of evidence had recorded the places of its T scalars."""
        groups = self.recording.groups
        return [group for name, group in groups.items() if name[:1] == (kind,)]

    def route(self, objective: int) -> list[int]:
        """The places of the variables that an objective may train."""
        return self.phase.routes.row(objective)

    # ------------------------------------------------------------------ gradients

    def cotangents(self, weights: Tensor | None) -> dict[int, Tensor]:
        """The seeds of one backward pass for (T,) weights; the extra term counts once.

        weights  None: one for each objective
        """
        if weights is None:
            found = dict.fromkeys(self.objectives, self.scale)
        else:
            found = dict(enumerate(ops.unstack(weights * self.scale)))
        return found if self.extra is None else {**found, self.extra: self.scale}

    def split(
        self, cotangents: Mapping[int, Tensor], among: Collection[int] | None = None
    ) -> Parts:
        """Cotangents of scalars, split by which objectives may train which variables.

        Scalars that are no objective, such as added losses, train what any objective trains.
        among  variables that are asked for; None for all
        """
        found = []
        for objectives, variables in self.phase.routes.parts:
            ruled_out = {*self.objectives} - {*objectives}
            terms = {s: seed for s, seed in cotangents.items() if s not in ruled_out}
            chosen = [v for v in variables if among is None or v in among]
            if terms and chosen:
                found.append((terms, chosen))
        return found

    def vjp(self, cotangents: Mapping[int, Tensor], last: bool = False) -> Directions:
        """Directions by variable, in one backward pass per set of objectives that share a route.

        last  whether nothing is differentiated afterwards
        """
        parts, count = self.split(cotangents), len(self.phase.aggregator.paths)
        return at_once(self.recording, parts, count, last)

    def rows(self, group: Sequence[int]) -> Table:
        """The gradients of T scalars, `scale` times, each by what the objective may train."""
        routes = [self.route(t) for t in range(len(group))]
        recording = unformed(in_slices(self.recording))
        with engine().under_way():
            return table_of(recording, group, self.scale, routes)

    def row(self, place: int | None) -> Directions | None:
        """The gradient of a term that belongs to every objective, if there is one, as a row."""
        if place is None:
            return None
        parts, count = self.split({place: self.scale}), len(self.phase.aggregator.paths)
        return at_once(in_slices(self.recording), parts, count, sparse=True)


# ---------------------------------------------------------------------- the forward pass


def record_phase(compilation: Compilation, number: int, batch: Batch) -> Recording:
    """One forward pass of a phase, recorded. Its outputs are (outputs, masks, present, counted).

    number  of the phase
    """
    settings, model = compilation.settings, compilation.model
    apart = settings.takes_apart

    def told() -> dict[str, Anything]:
        return at_step(compilation, number)

    if compilation.planned and (examples := compilation.plan.phases[number].examples) is not None:
        examples.check_alone()
        if examples.by_layers:
            run = forward_of(compilation, number, batch)
            return record_examples(run, model.trainable_variables, [model])
    chooses = _chosen(compilation, number)
    sizes = _sizes(compilation, number, chooses)
    run = forward_of(compilation, number, batch, sizes)
    if chooses is not None and (engine().replica_count() == 1 or settings.memory == "low"):
        return record_layers(run, model.trainable_variables, [model], sizes or chooses)
    if engine().processes() > 1:  # replicas add up in the forward pass already
        engine().check_together(told())
    known, measure = (lambda: model.trainable_variables), settings.measure
    found = engine().record(run, known, measure, apart)
    if sizes is not None:
        way = engine().way_of(found, [*found.groups["losses"]]) if not apart else "unrolled"
        sizes.looped = way == "looped"
    return over_replicas(taken_apart(compilation, number, found), told)


def forward_of(
    compilation: Compilation, number: int, batch: Batch, sizes: LayerSizes | None = None
) -> Forward:
    """The forward pass of a phase, as an engine records it.

    sizes  notes those of layers
    """

    def run() -> tuple[Scalars, Anything]:
        with nullcontext() if sizes is None else sizes.anew([compilation.model]):
            y_pred, losses = _forward(compilation, number, batch)
        counted = [each.counted for each in losses.terms]
        return losses.groups, (y_pred, masks_of(y_pred), losses.present, counted)

    return run


def _chosen(compilation: Compilation, number: int) -> Chooses | None:
    """Of which layers the calls are noted in a phase; None: of none."""
    noted = compilation.plan.phases[number].noted if compilation.planned else "none"
    return chosen(noted, compilation.model, compilation.examples_of_a_batch)


def _sizes(compilation: Compilation, number: int, chooses: Chooses | None) -> LayerSizes | None:
    """What notes the sizes of layers, in the first step of a method that could go several ways."""
    phases = compilation.phases
    if not phases or compilation.reaches or phases[number].aggregator.single_pass:
        return None
    compilation.sizes[number] = found = LayerSizes(chooses, compilation.examples_of_a_batch)
    return found


def taken_apart(compilation: Compilation, number: int, found: Recording) -> Recording:
    """The recording, or the losses in it where a class of the user's made the total."""
    settings = compilation.settings
    if not settings.takes_apart:
        return found
    names = compilation.plan.phases[number].names
    return ReturnedTotal(found, names, f"{settings.overrides}.compute_loss")


def losses_again(
    compilation: Compilation, number: int, batch: Batch, recording: Recording
) -> Sequence[Tensor]:
    """The T losses of a phase by another forward pass on the same batch, as they were recorded."""
    _, losses = _forward(compilation, number, batch)
    own = alone(recording)
    taken = own.losses_of(losses.groups) if isinstance(own, ReturnedTotal) else losses.losses
    return joined(taken)


def _forward(compilation: Compilation, number: int, batch: Batch) -> tuple[Anything, PhaseLosses]:
    y_pred = compilation.outputs(batch.inputs)
    return y_pred, phase_losses(compilation, number, batch, y_pred)


def unweighted_losses(compilation: Compilation, number: int, batch: Batch) -> Sequence[Tensor]:
    """The T losses of the objectives of a phase without their weights, by a forward pass."""
    y_pred = compilation.outputs(batch.inputs)
    _, evaluations = _heard(compilation, number, batch, y_pred)
    return evaluations[-1].values


def _heard(
    compilation: Compilation, number: int, batch: Batch, y_pred: Nest
) -> tuple[Tensor, list[Evaluation]]:
    """The total loss of a phase, and the evaluations of its losses that it comes from."""
    settings = compilation.settings
    asked = settings.phases[number].objectives if settings.objectives else ()
    with settings.source.evaluations.listening(asked) as evaluations:
        total = compilation.model.compute_loss(
            *batch[:2], y_pred, batch.sample_weight, **settings.loss_mode
        )
    compilation.complete(y_pred)
    return total, evaluations


def phase_losses(compilation: Compilation, number: int, batch: Batch, y_pred: Nest) -> PhaseLosses:
    """The losses of a phase for the outputs of its forward pass.

    ValueError if a kind of evidence wants more recorded than a total of the user's own can tell.
    """
    settings, model = compilation.settings, compilation.model
    source = settings.source
    total, evaluations = _heard(compilation, number, batch, y_pred)
    phase = compilation.plan.phases[number]
    if settings.overrides is not None:
        check_scalar(f"{settings.overrides}.compute_loss", total)
        return _of_override(settings, phase, evaluations, total)
    if source.empty:  # nothing but add_loss: that is the objective
        if phase.aggregator.recording:
            raise ValueError(
                "This method compares gradients of halves or of single samples of the batch, which "
                "add_loss() does not tell apart. Give the objectives to compile(loss=...)."
            )
        return PhaseLosses([total], total)
    (evaluation,) = evaluations
    extra = added_losses(model)
    parts = _by_kind(evaluation.parts, phase)
    terms = [each for each in evaluation.terms if each is not None]
    losses = _known(settings, evaluation)
    return PhaseLosses(losses, total, extra, parts, evaluation.present, terms=terms)


def _of_override(
    settings: Settings, phase: PhasePlan, evaluations: Sequence[Evaluation], total: Tensor
) -> PhaseLosses:
    """The losses behind a total that a user's `compute_loss` returned."""
    if settings.source.empty:  # it is all there is
        return PhaseLosses([total], total)
    if settings.objectives and len(evaluations) > 1:
        raise ValueError(
            "compute_loss calls super().compute_loss(...) "
            f"{len(evaluations)} times, and a step evaluates objectives once. Call it once, "
            "and write what it was called for again as an objective of its own: "
            'pt.Objective("again", function_of_the_step).'
        )
    if not evaluations:
        if settings.objectives or settings.takes_apart:
            raise ValueError(never_evaluated(settings.overrides, settings.method))
        return PhaseLosses([total] * len(phase.names), total, total)  # each stands or falls with it
    present = evaluations[-1].present
    if not settings.takes_apart:  # nothing but the total is differentiated, all of the rest, too
        return PhaseLosses(_known(settings, evaluations[-1]), total, total, present=present)
    calls = [call for evaluation in evaluations for call in evaluation.calls]
    return PhaseLosses(
        [call.value for call in calls],
        total,
        parts=_by_kind([call.parts for call in calls], phase),
        present=present,
        called=tuple(call.objective for call in calls),
    )


def _known(settings: Settings, evaluation: Evaluation) -> Sequence[Tensor]:
    """Weighted where nothing but their sum is wanted; other methods weigh objectives themselves."""
    weighted = settings.objectives is not None and settings.plain
    return evaluation.shares if weighted else evaluation.values


def _by_kind(parts: Sequence[PartsOfLoss], phase: PhasePlan) -> dict[str, list[list[Tensor]]]:
    """What kinds of evidence had recorded of each objective, turned: of all objectives each."""
    names = [kind.name for kind in phase.aggregator.recording]
    return {
        name: [list(column) for column in zip(*(each[name] for each in parts), strict=True)]
        for name in names
    }
