"""A method at work on given objectives and variables: its state, its compiled T x T part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from polytape.aggregation.naming import names_of
from polytape.aggregation.saved import Found, fitting
from polytape.aggregation.seeds import base_of, draw, seed_dtype
from polytape.aggregation.state import Path, StateVariables, leaves, rebuilt
from polytape.aggregation.weights import Compiled, Weights, compiled
from polytape.contract import Method, Reading, Seed, State, Tensor, in_float32, iter_methods, ops
from polytape.differentiation.connectivity import Blocks
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.replicated import as_the_first
from polytape.engines import engine
from polytape.evidence import Kind, Measurement, Recorded, kinds_of
from polytape.evidence.epoch_metrics import EpochMetrics
from polytape.evidence.round_robin import RoundRobin
from polytape.evidence.row_memory import ObservedRows, RowMemory, RowObserver, empty_memory
from polytape.stages.chain import split
from polytape.stages.scopes import PerNetwork


class Weighting(NamedTuple):
    """What the T x T part comes to.

    shared   (T,) or (B, T) weights for variables that several objectives reach
    private  (T,) weights for the others;  state  the next one

    Weights of an objective are NaN where they, or the squared norm of its part of the update, are
    not finite; all of them are where the state would no longer be finite.
    """

    shared: Tensor
    private: Tensor
    state: State


class Aggregation(NamedTuple):
    """An update and what goes with it.

    directions  by variable, None where nothing reaches it;  active  (T,) bool: what is in them
    state       of the method, for the next step;  accept  () bool: whether it moves on
    shared, private  the weights: (T,) or (B, T) on shared variables, (T,) on the others; None: one
                     for each that is active
    """

    directions: list[Tensor | None]
    active: Tensor
    state: State
    accept: Tensor
    shared: Tensor
    private: Tensor | None


class Aggregator:
    """A method made ready for T objectives over V variables, with its state.

    The method is split in two: a scalarization, whose weights multiply the losses and so reach
    every variable, and a combination, whose weights act on shared variables only.

    kinds  of evidence that the method reads
    """

    def __init__(
        self,
        method: Method,
        names: Sequence[str],
        paths: Sequence[str],
        make: Callable[..., Any],
        private: str = "own",
        seed: int | Seed = 0,
        saved: Found | None = None,
        shapes: Sequence[Sequence[int]] = (),
        networks: Sequence[str] | None = None,
        label: Path = ("method",),
        variables: Sequence[Any] = (),
    ) -> None:
        """make  creates the variables of its state: `keras.Variable`, or what takes the same

        seed      to be mixed with the step, or that of every step
        saved     the arrays of a state to go on from; None starts afresh
        shapes    of the variables, for methods with a memory
        networks  the network of each variable; None takes the first part of its path
        label     what the paths of state variables begin with
        variables themselves, if they are there: a memory lies where they do
        """
        self.method, self.names, self.paths = method, tuple(names), tuple(paths)
        self.scalarization, self.combination = split(method)
        self.kinds = kinds_of(method)
        self.round_robin = self._has(RoundRobin)
        self.private = "joint" if self.round_robin else private
        self.blocks = Blocks.by(method.scope, paths, networks)
        for part in iter_methods(method):
            if isinstance(part, PerNetwork):
                part.owned(self.blocks.names)  # raises for names that do not fit, before any step
        chosen = self.combination or method
        self._observer = (
            RowObserver(chosen, self.scalarization, variables)
            if chosen.memory is not None
            else None
        )
        lead, rest = self.scalarization, self.combination
        initial: dict[str, State] = {
            "scalarization": lead.init(self.names) if lead else (),
            "combination": rest.init(self.names, self.blocks.shape) if rest else (),
        }
        for kind in self.kinds:
            if (state := kind.initial(self.names)) is not None:
                initial[kind.key] = state
        if self._observer is not None:
            initial["memory"] = empty_memory(chosen, len(self.names), shapes)
        if saved is not None:
            initial = rebuilt(initial, fitting(saved, leaves(initial)))
        named = names_of(initial, lead, rest, self.paths)
        named = {place: (*label, *name) for place, name in named.items()}
        self.state = StateVariables(initial, make, named, beside=_beside(initial, variables))
        self._seed = seed
        # A number goes in as a tensor, so that models with other seeds can share what is compiled.
        self._fixed = seed if isinstance(seed, Seed) else None
        self._base = None if isinstance(seed, Seed) else np.array(base_of(seed), seed_dtype())
        observed = self._observer is not None
        self._weights = Weights(lead, rest, self.names, self.blocks.names, observed, self.kinds)
        self._compiled: dict[bytes | None, Compiled] = {}

    def _has(self, kind: type[Kind]) -> bool:
        return any(isinstance(each, kind) for each in self.kinds)

    @property
    def single_pass(self) -> bool:
        """Whether no weight depends on gradients: one backward pass is enough."""
        return self.combination is None

    @property
    def period(self) -> int:
        """One step out of this many needs every objective's gradient."""
        return 1 if self.combination is None else self.combination.period

    @property
    def recording(self) -> list[Kind]:
        """The kinds that have more recorded of each objective than its loss."""
        return [kind for kind in self.kinds if kind.records]

    @property
    def looks_after_update(self) -> bool:
        """Whether the losses are asked for again after the update."""
        return any(kind.second_forward for kind in self.kinds)

    def reseed(self, seed: int) -> None:
        """Draw from another base seed from now on."""
        self._seed, self._base = seed, np.array(base_of(seed), seed_dtype())

    def seed(self, step: Tensor) -> Seed:
        """The seed of a step: the same after a resume, another one in every step."""
        return self._seed if isinstance(self._seed, Seed) else draw(self._seed, step)

    def measure(self, at: Measurement) -> dict[str, Any]:
        """{key: value} of the kinds of evidence that are measured in this step."""
        found = {kind.key: kind.measure(at) for kind in self.kinds if kind.key}
        return {key: value for key, value in found.items() if value is not None}

    @in_float32
    def weigh(
        self,
        losses: Tensor,
        gramian: Tensor | None,
        active: Tensor,
        step: Tensor,
        readings: Mapping[str, Any],
        reach: np.ndarray | None = None,
        lengths: Tensor | None = None,
    ) -> Weighting:
        """Weights for the evidence of a step.

        losses, active (T,); gramian (T, T), (B, T, T) or None; reach (B, T) NumPy or None;
        lengths   (T,) norms of the gradients, where they are known
        readings  {key: value} of what was measured beyond
        """
        given = {"losses": losses, "gramian": gramian, "active": active, "step": step}
        tensors = {name: value for name, value in given.items() if value is not None}
        state = self.state.read()
        memory = {"memory": state.pop("memory")} if self._observer is not None else {}
        if self.single_pass:  # a handful of operations: not worth a kernel of their own
            seed = self.seed(step)
            shared, private, state = self._weights(tensors, readings, state, seed, reach, lengths)
            return Weighting(shared, private, {**state, **memory})
        key = None if reach is None else reach.tobytes()
        if key not in self._compiled:
            self._compiled[key] = compiled(self._weights, state, reach, self._fixed)
        known = [] if lengths is None else [lengths]
        given_state, run = leaves(state), self._compiled[key]
        shared, private, found = run(
            tensors, dict(readings), [*given_state.values()], known, self._base
        )
        shared, private, *found = as_the_first([shared, private, *found])
        state = rebuilt(state, dict(zip(given_state, found, strict=True)))
        return Weighting(shared, private, {**state, **memory})

    @in_float32
    def aggregate(
        self,
        gradients: Jacobian,
        active: Tensor,
        step: Tensor,
        recorded: Recorded | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> Aggregation:
        """The update for the gradients of all objectives.

        active    (T,) bool: objectives that have a label this step
        recorded  the forward pass of a training step, for evidence that is measured by it
        given     {key: value} of evidence that the caller has measured himself
        """
        at = Measurement(step, recorded, given=given)
        observed = self._observed(gradients, active, at)
        if observed is not None:
            gradients, active = observed.gradients, observed.active
        blocks = self.blocks
        gramian = None if self.single_pass else gradients.gramians(blocks)
        lengths = gradients.lengths(gramian)
        active, lengths, gramian, losses = engine().evaluated(
            _among, active, lengths, gramian, gradients.loss_vector
        )
        readings = self.measure(
            Measurement(step, recorded, gradients, gramian, active, blocks, given)
        )
        if observed is not None and observed.measures is not None:
            readings[RowMemory.key] = observed.measures
        reach = blocks.reach(gradients.connectivity)
        shared, private, state = self.weigh(losses, gramian, active, step, readings, reach, lengths)
        seen = active
        active, shared, private = engine().evaluated(_where_finite, active, shared, private)
        own: Tensor | None = private
        if self.private == "weighted" and not blocks.shape:
            own = shared if observed is None else shared * private
        elif self.scalarization is None:
            own = None
        method, seed = self.combination or self.method, self.seed(step).shifted(2)
        directions = gradients.combined(shared, own, active, blocks, method, seed)
        if observed is not None:
            directions = observed.moved(directions, ops.any(active))
            state["memory"] = observed.kept(seen)
        if gradients.taken is not None:
            active = ops.logical_and(active, gradients.taken)
        if half := _in_half(directions):
            fine = engine().finite(half)  # they leave their range sooner than the weights tell
            active = active & fine
            directions = [d if d is None else _zero_unless(fine, d) for d in directions]
        return Aggregation(directions, active, state, ops.any(active), shared, own)

    def aggregate_in_loop(
        self, gradients: Jacobian, step: Tensor, given: Mapping[str, Any] | None = None
    ) -> Aggregation:
        """As `aggregate`, where all objectives count and loss scaling is somebody else's.

        Where a gradient is not finite though its loss is, under a scale, all directions are NaN:
        whoever undoes the scale is to see it, skip the step and lower the scale.
        """
        everyone = gradients.counted
        if everyone is None:
            everyone = ops.ones((len(self.names),), dtype="bool")
        gradients = gradients.joint() if self.private == "joint" else gradients
        found = self.aggregate(gradients, everyone, step, given=given)
        if not gradients.scaled:
            return found
        losses = gradients.loss_vector
        overflow = ops.any(everyone & ops.isfinite(losses) & ~found.active)
        reached = [gradient for gradient in found.directions if gradient is not None]
        fine = ~overflow & engine().finite(reached)
        factor = ops.where(fine, ops.ones((1,)), float("nan"))
        directions = [
            g if g is None else engine().rows([g]).weighted_sum(factor, None)
            for g in found.directions
        ]
        return found._replace(directions=directions, accept=found.accept & fine)

    def _observed(
        self, gradients: Jacobian, active: Tensor, at: Measurement
    ) -> ObservedRows | None:
        """What a method with a memory makes of the rows before they are weighed."""
        if self._observer is None:
            return None
        state = self.state.read()
        readings: dict[str, Reading] = {}
        for kind in self.kinds:
            if kind.key in state:
                readings[kind.key] = kind.reading(kind.remembered(state[kind.key]))
        seed = self.seed(at.step)
        return self._observer.look(gradients, active, at.step, seed, state, readings)

    def look_after_update(
        self, before: Sequence[Tensor], after: Sequence[Tensor], active: Tensor, accept: Tensor
    ) -> None:
        """Let kinds of evidence see the T losses of a batch before and after its update."""
        if self.looks_after_update:
            first, second = (ops.cast(ops.stack(found), "float32") for found in (before, after))
            state = self.state.read()
            for kind in self.kinds:
                if kind.second_forward:
                    state[kind.key] = kind.after_update(first, second, active)
            self.state.write(state, accept)

    def on_epoch_metrics(self, logs: Mapping[str, float]) -> None:
        """Let the metrics of an epoch into the state of methods that read some.

        ValueError if a metric that a method names is not among them.
        """
        for kind in self.kinds:
            if isinstance(kind, EpochMetrics):
                asking = [m for m in iter_methods(self.method) if kind.name in m.evidence]
                for method, variable in zip(asking, self.state.named("kpi"), strict=True):
                    kpi = variable.numpy()
                    variable.assign(kind.after_epoch(method, kpi, self.names, logs))


def _beside(initial: State, variables: Sequence[Any]) -> dict[Path, Any]:
    """{place of an array of a memory: the variable whose rows it remembers}."""
    places = [place for place in leaves(initial) if place[0] == "memory"]
    return {place: variables[int(place[1])] for place in places} if variables else {}


def _among(
    active: Tensor, lengths: Tensor, gramian: Tensor | None, losses: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Activity, lengths, Gramian and losses with zeros for what is not active, or not finite."""
    active = ops.logical_and(active, ops.isfinite(lengths))
    both = ops.logical_and(active[:, None], active[None, :])
    gramian = None if gramian is None else ops.where(both, gramian, 0.0)
    return active, ops.where(active, lengths, 0.0), gramian, ops.where(active, losses, 0.0)


def _where_finite(active: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Activity and weights, without what has weights that are not finite."""
    for found in weights:
        active = ops.logical_and(active, _finite(found))
    return active, *(ops.where(active, found, 0.0) for found in weights)


def _finite(weights: Tensor) -> Tensor:
    """(T,) bool: whether the weights (T,) or (B, T) of each objective are finite."""
    fine = ops.isfinite(weights)
    return ops.all(fine, axis=0) if len(fine.shape) > 1 else fine


def _in_half(directions: Sequence[Tensor | None]) -> list[Tensor]:
    """Those in float16."""
    reached = [gradient for gradient in directions if gradient is not None]
    types = {gradient.dtype for gradient in reached}  # one or two, of hundreds of gradients
    half = [kind for kind in types if keras.backend.standardize_dtype(kind) == "float16"]
    return [gradient for gradient in reached if gradient.dtype in half] if half else []


def _zero_unless(fine: Tensor, gradient: Tensor) -> Tensor:
    return engine().add_where(engine().zeros_like(gradient), fine, gradient)
