"""What a step costs as it is planned, and what it would cost in other ways, as text."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from polytape.contract.types import Flags, Numbers
from polytape.differentiation.layer_calls import FEW
from polytape.differentiation.layer_sizes import LayerSize, LayerSizes
from polytape.training.memory import bytes_of
from polytape.training.plan import PhasePlan, Settings, StepPlan
from polytape.training.variables import VariableIndex

CHOSEN = "→"
_LEGEND = (
    "Work: products of layers' matrices with what comes in and back, relative to one forward and "
    "one backward pass. Memory: beside weights, slots, activations and the combined gradient."
)
_WIDTH = 100


class Way(NamedTuple):
    """A way to make a step.

    work  products;  memory  bytes
    """

    name: str
    work: float
    memory: float
    chosen: bool


def plan_summary(
    settings: Settings,
    plan: StepPlan,
    reaches: Mapping[str, Flags],
    sizes: Mapping[int, LayerSizes],
) -> str:
    """The plan of each phase.

    reaches  {objective: (V,) bool} as far as steps have found it out
    sizes    {phase: what its forward pass takes}, likewise
    """
    parts = []
    for number, phase in enumerate(plan.phases):
        title = _title(phase, plan.index, len(plan.phases), number)
        if phase.aggregator.single_pass:
            parts.append(f"{title}\nOne backward pass is all that the method needs.")
        elif number in sizes and all(name in reaches for name in phase.names):
            reach = np.array([reaches[name] for name in phase.names]) & phase.routes.allowed
            parts.append(f"{title}\n{_table(ways(settings, phase, reach, sizes[number]))}")
        else:
            parts.append(f"{title}\nWork and memory are known after the first step.")
    return "\n\n".join([*parts, _LEGEND])


def _title(phase: PhasePlan, index: VariableIndex, count: int, number: int) -> str:
    named = f"Phase {number + 1}: " if count > 1 else ""
    weights = sum(int(np.prod(variable.shape)) for variable in index.variables)
    method = type(phase.aggregator.combination or phase.aggregator.method).__name__
    several = "s" if len(phase.names) > 1 else ""
    return f"{named}{method} of {len(phase.names)} objective{several}, {weights:,} weights"


# ---------------------------------------------------------------------- what ways there are


def ways(settings: Settings, phase: PhasePlan, reach: Flags, measured: LayerSizes) -> list[Way]:
    """The ways to make a step of a phase that are right for its method, and one backward pass.

    reach  (T, V) bool: who trains what
    """
    places = {id(variable): v for v, variable in enumerate(phase.variables)}
    reaching, sizes = reach.sum(axis=0), measured.found

    def members(size: LayerSize) -> int:
        """How many objectives train a layer."""
        counts = [int(reaching[places[id(v)]]) for v in size.variables if id(v) in places]
        return max(counts, default=0)

    forward = sum(size.products for size in sizes)
    known = [(size, members(size)) for size in sizes]
    one = forward + sum(2 * size.products for size, count in known if count)
    rows = forward + sum(2 * size.products * count for size, count in known)
    each = np.array([bytes_of(variable) for variable in phase.variables])
    shared = np.where(reaching > 1, reaching, 0)
    kept = float((shared * each).sum())
    aggregator = phase.aggregator
    noted = phase.noted != "none"
    found = [Way("one backward pass", one, 0.0, chosen=False)]
    if phase.examples is not None:
        return [found[0]._replace(name="one backward pass to the layers", chosen=True)]
    if settings.measure != "parameters":
        name = f"one backward pass, and one per objective to the {settings.measure}"
        return [found[0]._replace(name=name, chosen=True)]
    if aggregator.round_robin:
        return [*found, Way("one of them per objective in turn", one, kept, chosen=True)]
    name = "a gradient per objective" + ", in one loop" * measured.looped
    found.append(Way(*_now_and_then(phase, name, rows, one), kept, not noted))
    if noted:
        found.append(_unformed(known, forward, one, places, shared * each, phase))
    return found


def _unformed(
    known: Sequence[tuple[LayerSize, int]],
    forward: int,
    one: int,
    places: Mapping[int, int],
    rows: Numbers,
    phase: PhasePlan,
) -> Way:
    """Gradients of noted layers that are not formed.

    rows  (V,) bytes of the rows by each variable
    """
    work, memory, kept, largest = float(forward), 0.0, float(rows.sum()), 0.0
    for size, count in known:
        if not size.noted or count < 2:
            work += 2 * size.products * count
            continue
        work += size.products * (count + 1) + size.compared(count)
        own = sum(float(rows[places[id(v)]]) for v in size.variables if id(v) in places)
        kept -= own
        memory += 4.0 * count * size.outputs
        if size.positions > FEW:
            largest = max(largest, own)
    name = "what comes back to layers per objective, compared without gradients"
    return Way(*_now_and_then(phase, name, work, one), kept + memory + largest, chosen=True)


def _now_and_then(phase: PhasePlan, name: str, work: float, one: float) -> tuple[str, float]:
    """A way, and the work of it in the mean of steps, where a method looks only now and then."""
    period = phase.aggregator.period
    if period == 1:
        return name, work
    return f"{name}, every {period} steps", (work + (period - 1) * one) / period


# ---------------------------------------------------------------------- as text


def _table(found: Sequence[Way]) -> str:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("", "way"):
        table.add_column(name)
    for name in ("work", "memory"):
        table.add_column(name, justify="right")
    for way in found:
        work = f"{way.work / found[0].work:.2f}" if found[0].work else "?"
        table.add_row(CHOSEN if way.chosen else "", way.name, work, decimal(int(way.memory)))
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
