"""What a monitor is to know of a step, from what the step has in any case where it has it."""

import functools
from typing import NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Tensor, iter_methods
from polytape.contract.types import Array
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.jacobian import Jacobian
from polytape.training.backward import BackwardResult, sees_every_gradient
from polytape.training.monitor_state import Layout, MonitorState, chosen
from polytape.training.nonfinite import UpdateDecision
from polytape.training.plan import PhasePlan, Settings, StepPlan
from polytape.training.recording import PhaseRecording


class Observation:
    """A monitor that looks at one phase of one step."""

    def __init__(self, state: MonitorState, number: int, recording: PhaseRecording) -> None:
        """number  of the phase"""
        self._state, self._number, self._recording = state, number, recording
        self._layout, self._due = state.layouts[number], state.due()
        self._measured: Tensor | None = None

    def measure(self) -> None:
        """Where a step does not have every gradient: one backward pass each, if a record is due.

        Before the backward pass of the step, which on PyTorch consumes what was recorded.
        """
        if sees_every_gradient(self._recording):
            return
        layout, recording = self._layout, self._recording
        self._measured = chosen(
            self._due,
            lambda: products_of(_all_gradients(recording, layout), layout),
            lambda: ops.zeros((layout.cells,), "float32"),
        )

    def write(self, result: BackwardResult, decision: UpdateDecision) -> None:
        """Keep the record of the phase, if it is due."""
        self._state.write(self._number, self._due, lambda: self._record(result, decision))

    def _record(self, result: BackwardResult, decision: UpdateDecision) -> Tensor:
        recording, layout = self._recording, self._layout
        weights, phase = result.weights, recording.phase
        products = self._measured
        if products is None and result.gradients is not None:
            products = products_of(result.gradients, layout)
        if weights is None or products is None:
            raise RuntimeError("A monitored step came without its weights.")
        given = ops.ones((len(recording.losses),), "float32")
        if phase.plain:  # what was differentiated is weighted already
            given = phase.weights(recording.step)
        losses = recording.loss_vector
        here = recording.of_those_present(recording.finite_losses)
        taken = ops.cast(decision.active & decision.accept, "float32")
        private = taken if weights.private is None else weights.private
        parts = [ops.where(here, losses, float("nan")), given, taken]
        parts += [weights.shared, private, products]
        return ops.stop_gradient(ops.concatenate([_flat(part) for part in parts]))


def _flat(part: Tensor) -> Tensor:
    return ops.reshape(ops.cast(part, "float32"), (-1,))


def _all_gradients(recording: PhaseRecording, layout: Layout) -> Jacobian:
    """The gradients of all objectives on their routes, one backward pass each."""
    aggregator, scale = recording.phase.aggregator, recording.scale
    rows = recording.rows(recording.recording.groups["losses"])
    added = recording.total if layout.whole else recording.extra
    connectivity = Connectivity.seen(aggregator.names, aggregator.paths, rows)
    return Jacobian(recording.named_losses, rows, connectivity, scale, recording.row(added))


class _Key(NamedTuple):
    group: int
    kind: int  # 0: of several objectives, 1: of one or none
    members: tuple[int, ...]


def products_of(gradients: Jacobian, layout: Layout) -> Tensor:
    """(cells,) the inner products of a record.

    Nothing is multiplied by zero on the way, so that what is not finite stays where it is.
    """
    connectivity, extra = gradients.connectivity, gradients.extra
    count = len(connectivity.names)
    found: dict[_Key, Tensor] = {}
    for v in range(len(connectivity.paths)):
        members = connectivity.objectives(v)
        kind = int(len(members) < min(2, count))
        if extra is not None and extra[v] is not None:
            members = (*members, count)
        if not members:
            continue
        alone = len(members) == 1
        products = gradients.squares(v)[0] if alone else gradients.products(v)
        key = _Key(layout.group_of[v], kind, members)
        found[key] = found[key] + products if key in found else products
    flat = [ops.reshape(products, (-1,)) for products in found.values()]
    flat.append(ops.zeros((1,), "float32"))
    numbers = ops.take(ops.concatenate(flat), _places(tuple(found), layout), axis=0)
    return ops.sum(numbers, axis=0) / (gradients.scale * gradients.scale)


@functools.lru_cache(maxsize=64)  # eager steps ask for the same again and again
def _places(keys: tuple[_Key, ...], layout: Layout) -> Array:
    """(m, cells) where each cell finds what it is the sum of; the last place holds a zero."""
    count = len(layout.objectives) + 1
    sources: list[list[int]] = [[] for _ in range(layout.cells)]
    place = 0
    for key in keys:
        first = (key.group * 2 + key.kind) * count * count
        for row in key.members:
            for column in key.members:
                sources[first + row * count + column].append(place)
                place += 1
    most = max(1, *map(len, sources))
    return np.array([each + [place] * (most - len(each)) for each in sources], "int32").T


def monitor_state(
    settings: Settings, plan: StepPlan, every: int, capacity: int, networks: bool
) -> MonitorState:
    """What a monitor keeps of the steps of a plan. networks  whether they are told apart"""
    layouts = [_layout(settings, plan, phase, networks) for phase in plan.phases]
    return MonitorState(every, capacity, layouts)


def _layout(settings: Settings, plan: StepPlan, phase: PhasePlan, networks: bool) -> Layout:
    aggregator, owners = phase.aggregator, plan.index.owners
    blocks = aggregator.blocks
    keys = [
        (owner if networks else "", block) for owner, block in zip(owners, blocks.of, strict=True)
    ]
    groups = tuple(dict.fromkeys(keys))
    method = aggregator.combination or aggregator.method
    weighs = all(part.sums_rows for part in iter_methods(method))
    return Layout(
        phase.names,
        groups,
        tuple(map(groups.index, keys)),
        blocks=len(blocks.names) or 1,
        joint=aggregator.private == "joint",
        whole=settings.overrides is not None and not settings.takes_apart,
        weighs=weighs,
        sums=weighs and method.memory is None,
    )
