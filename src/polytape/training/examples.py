"""Objectives of which every example, or every time step, is one: a batch is T of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import keras
from keras import ops

from polytape.aggregation import Aggregator, check_examples
from polytape.contract import Method, Tensor
from polytape.contract.types import Flags
from polytape.differentiation.examples import InLine, Per
from polytape.differentiation.layer_recording import LayerRecording
from polytape.differentiation.passes import Directions, at_once
from polytape.differentiation.per_example import PerExample
from polytape.engines import Measure, Recording, engine
from polytape.training.losses.objective import Objective
from polytape.training.routing.routes import Routes
from polytape.training.variables import VariableIndex


class Recorded(Protocol):
    """A forward pass of a phase, with the terms of its losses."""

    recording: Recording
    step: Tensor
    scale: Tensor
    extra: int | None
    counted: Sequence[Tensor]
    batch: int | None
    known_reach: Flags | None

    @property
    def wanted(self) -> Tensor: ...

    @property
    def added(self) -> list[Tensor]: ...


class Combined(NamedTuple):
    """What the examples of a batch come to.

    directions  by variable;  reach  (K, V) bool: which of the K objectives reaches which
    active      (K,) bool: objectives with an example in them
    left_out    (K,) bool: objectives with an example that is not, because it is not finite
    weights     (K,) or (B, K): the mean over the examples that are
    """

    directions: Directions
    reach: Flags
    active: Tensor
    left_out: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Examples:
    """How the examples of a batch are combined.

    names      of the K objectives;  per  "example" or "step" for each
    method     of their losses, behind the objectives' own weights
    index, seed  as of an `Aggregator`
    by_layers  whether the method asks how the gradients of examples compare
    """

    names: tuple[str, ...]
    per: tuple[Per, ...]
    method: Method
    index: VariableIndex
    seed: int
    by_layers: bool
    _made: dict[tuple[str, ...], Aggregator] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        given: Sequence[Objective],
        method: Method,
        index: VariableIndex,
        seed: int,
        measure: Measure,
    ) -> "Examples":
        """ValueError for objectives, or a method, that cannot be taken example by example."""
        names = tuple(objective.name for objective in given)
        whole = [objective.name for objective in given if objective.per is None]
        if whole:
            each = next(objective for objective in given if objective.per is not None)
            raise ValueError(
                f"Objective {each.name!r} has per={each.per!r}, and {whole[0]!r} beside it is one "
                "objective for the whole batch. Give both `per`; or put them into phases of their "
                f"own, phases=[{each.name!r}, {whole[0]!r}]; or add the loss of {whole[0]!r} with "
                "add_loss()."
            )
        check_examples(method, measure)
        per = tuple(objective.per for objective in given if objective.per is not None)
        return cls(names, per, method, index, seed, by_layers=method.needs != "losses")

    def check_alone(self) -> None:
        """Raise where a step is one of several replicas or processes."""
        several = max(engine().replica_count(), engine().processes())
        if several > 1:
            raise RuntimeError(
                f"Objective {self.names[0]!r} has per={self.per[0]!r}: the examples of a whole "
                f"batch are compared in one place, and this step is one of {several}. Train on one "
                "device, or leave out `per`."
            )

    def aggregator(self, names: tuple[str, ...]) -> Aggregator:
        """The method at work on T losses; made once for each T that comes."""
        if names not in self._made:
            index, networks = self.index, self.index.owners
            self._made[names] = Aggregator(
                self.method,
                names,
                index.paths,
                keras.Variable,
                "joint",
                self.seed,
                networks=networks,
            )
        return self._made[names]

    def directions(self, recorded: Recorded, routes: Routes) -> Combined:
        """The update for the terms of the losses of a batch."""
        recording = recorded.recording
        places = [*recording.groups["terms"]]
        terms = [recording.scalars[place] for place in places]
        if recorded.known_reach is None and isinstance(recording, LayerRecording):
            recording.check_covered(self.names, places)
        line = InLine.of(self.names, self.per, terms, recorded.batch)
        losses, belongs = line.line(terms), ops.convert_to_tensor(line.owners)
        wanted = ops.matmul(belongs, ops.cast(recorded.wanted, "float32")[:, None])[:, 0] > 0
        counted = [ops.cast(each, "float32") for each in recorded.counted]
        asked = wanted & (line.line(counted) > 0)
        aggregator = self.aggregator(line.labels)
        if isinstance(recording, LayerRecording):
            passes = line.passes(places, routes.allowed)
            scale, extra = recorded.scale, recorded.extra
            gradients = PerExample(line.labels, losses, recording, passes, scale, extra)
            found = aggregator.aggregate(gradients, asked, recorded.step)
            directions, weights, active = found.directions, found.shared, found.active
            reach = line.of_objectives(gradients.reach)
        else:
            weights, active = self._by_losses(aggregator, recorded, losses, asked)
            back = line.back(ops.where(active, weights, 0.0), terms)
            parts = [
                ({places[k]: back[k] * recorded.scale for k in objectives}, variables)
                for objectives, variables in routes.parts
            ]
            if recorded.extra is not None:
                parts = [({**seeds, recorded.extra: recorded.scale}, v) for seeds, v in parts]
            directions = at_once(recording, parts, len(self.index.variables))
            known = recorded.known_reach
            reach = routes.within(recording.reach(places) if known is None else known)
        if not self.by_layers or recorded.extra is not None:  # what else may be in them
            there = [gradient for gradient in directions if gradient is not None]
            active = active & engine().in_range(there, recorded.added)

        def of_each(values: Tensor) -> Tensor:
            return ops.matmul(ops.cast(values, "float32"), belongs)

        number = of_each(active)
        mean = ops.divide_no_nan(of_each(ops.where(active, weights, 0.0)), number)
        left_out = of_each(asked & ~active) > 0
        return Combined(directions, reach, number > 0, left_out, mean)

    def _by_losses(
        self, aggregator: Aggregator, recorded: Recorded, losses: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(T,) weights that no gradient is asked for, and (T,) bool: what has one."""
        active = asked & ops.isfinite(losses)
        losses = ops.where(active, losses, 0.0)
        weights, _, _ = aggregator.weigh(losses, None, active, recorded.step, {})
        return weights, active & ops.isfinite(weights)
