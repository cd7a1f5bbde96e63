"""The routing table as text: objectives in rows, networks in columns, their optimizers below."""

import io
import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from polytape.contract.types import Flags, Numbers
from polytape.training.losses.objective import Objective
from polytape.training.optimizers.assignment import as_optimizers
from polytape.training.plan import Settings, StepPlan

TRAINS, DISCARDED, APART, UNKNOWN = "●", "○", "·", "?"
LEGEND = {
    TRAINS: "trained",
    DISCARDED: "reached, but not on its route",
    APART: "not trained",
    UNKNOWN: "trained if reached: known at the first step",
}
_OF_NORMS = "numbers: norm of the loss's gradient on this batch"
_WIDTH = 100  # where the output is no terminal


Norms = Mapping[str, Numbers]  # {objective: (V,)}


@dataclass(frozen=True)
class _Network:
    """A column: a network, or several that follow each other and are routed alike.

    title      its name, or those of the first and the last;  count  how many they are
    variables  indices of their trainable variables
    cells      one per objective;  optimizer  of its variables
    """

    title: str
    count: int
    variables: tuple[int, ...]
    cells: tuple[str, ...]
    optimizer: str

    @property
    def routing(self) -> tuple[str, ...]:
        """Columns with the same may be joined: the signs, and whether they hold for all."""
        signs = (cell[0] + "of" * (" of " in cell) for cell in self.cells)
        return *signs, self.optimizer


@dataclass(frozen=True)
class _Routing:
    """What the table is of.

    reaches  {objective: (V,) bool} as far as steps have found it out
    """

    settings: Settings
    plan: StepPlan
    optimizer: keras.optimizers.Optimizer
    reaches: Mapping[str, Flags]

    @property
    def objectives(self) -> list[Objective]:
        found = self.settings.objectives
        return [] if found is None else [*found.given.values()]


def routing_table(
    settings: Settings,
    plan: StepPlan,
    optimizer: keras.optimizers.Optimizer,
    reaches: Mapping[str, Flags],
    norms: Norms | None = None,
    width: int | None = None,
) -> str:
    """The table of a plan: what is declared and, after a step, what is reached.

    reaches  {objective: (V,) bool} as far as it is known
    norms  of the gradients on some batch: shown behind the signs, of what is discarded, too
    width  of a line; None takes that of the terminal

    Networks without trainable variables are left out. Where the lines would be too long, networks
    that follow each other and are routed alike become one; then the networks go into the rows; then
    the table is cut into several.
    """
    width = width or shutil.get_terminal_size((_WIDTH, 24)).columns
    of = _Routing(settings, plan, optimizer, reaches)
    each = _networks(of, norms)
    joined = _joined(of, each, norms)
    rows, turned = _in_columns(of, each), _in_rows(of, each)
    orders = [rows, turned] if norms is not None else [rows]
    orders += [_in_columns(of, joined), _in_rows(of, joined)]
    chosen = next((grid for grid in orders if _wide(grid) <= width), orders[-1])
    text = "\n\n".join(_rendered(part, width) for part in _cut(chosen, width))
    used = [sign for sign in LEGEND if any(cell[0] == sign for n in each for cell in n.cells)]
    legend = [f"{sign} {LEGEND[sign]}" for sign in used] + [_OF_NORMS] * (norms is not None)
    if as_optimizers(optimizer) is None:
        legend.append(f"optimizer: {settings.optimizers['']}")
    return text + "\n" + _filled(legend, width)


# ---------------------------------------------------------------------- what it says


def _networks(of: _Routing, norms: Norms | None) -> list[_Network]:
    index = of.plan.index
    named = {name: tuple(index.of(name)) for name in index.networks}
    named["(other)"] = tuple(v for v, owner in enumerate(index.owners) if not owner)
    return [_network(of, name, 1, own, norms) for name, own in named.items() if own]


def _network(
    of: _Routing, title: str, count: int, variables: tuple[int, ...], norms: Norms | None
) -> _Network:
    cells = tuple(_cell(each, of, list(variables), norms) for each in of.objectives)
    return _Network(title, count, variables, cells, _optimizers(of, variables))


def _joined(of: _Routing, networks: Sequence[_Network], norms: Norms | None) -> list[_Network]:
    """Those that follow each other and are routed alike as one."""
    found = []
    for _, alike in itertools.groupby(networks, lambda network: network.routing):
        members = list(alike)
        if len(members) == 1:
            found.append(members[0])
            continue
        title = f"{members[0].title} … {members[-1].title} ({len(members)})"
        variables = dict.fromkeys(v for member in members for v in member.variables)
        found.append(_network(of, title, len(members), tuple(variables), norms))
    return found


def _cell(objective: Objective, of: _Routing, own: list[int], norms: Norms | None) -> str:
    """What an objective does to some variables."""
    allowed, reach = of.plan.routes[objective.name][own], of.reaches.get(objective.name)
    length = None if norms is None else norms[objective.name][own]
    reach = reach[own] if reach is not None else None if length is None else length > 0
    sign = _sign(allowed, reach, objective)
    if length is None or sign == APART:
        return sign
    counted = allowed if sign.startswith(TRAINS) else True
    return f"{sign} {np.linalg.norm(length * counted):.3g}"


def _sign(allowed: Flags, reach: Flags | None, objective: Objective) -> str:
    if reach is None:
        return APART if not allowed.any() else UNKNOWN if objective.trains is None else TRAINS
    both = allowed & reach
    if both.any():
        return TRAINS if both.all() else f"{TRAINS} {both.sum()} of {len(both)}"
    return DISCARDED if reach.any() else APART


def _weight(objective: Objective) -> str:
    weight = objective.weight
    return f"{weight:g}" if isinstance(weight, float) else type(weight).__name__


def _when(objective: Objective, of: _Routing) -> str:
    words = []
    phases = of.settings.phases
    if len(phases) > 1:
        number, phase = next((n, p) for n, p in enumerate(phases) if objective.name in p.objectives)
        words.append(f"phase {number + 1}" + (f" x {phase.steps}" if phase.steps > 1 else ""))
    if objective.per is not None:
        words.append(f"per {objective.per}")
    if objective.every > 1:
        words.append(f"every {objective.every}")
    if objective.when is not None:
        words.append("conditional")
    return ", ".join(words)


def _optimizers(of: _Routing, variables: Sequence[int]) -> str:
    """The optimizers of some variables; nothing where one has them all."""
    parts = as_optimizers(of.optimizer)
    if parts is None:
        return ""
    owners: Sequence[str] = parts.owners or ()
    return ", ".join(dict.fromkeys(of.settings.optimizers[owners[v]] for v in variables if owners))


# ---------------------------------------------------------------------- how it looks


@dataclass(frozen=True)
class _Grid:
    """Cells by column, the title first; `fixed` columns begin every part of a table that is cut.

    last  whether the last row stands apart
    """

    columns: tuple[tuple[str, ...], ...]
    fixed: int
    last: bool


def _in_columns(of: _Routing, networks: list[_Network]) -> _Grid:
    objectives = of.objectives
    about = {
        "objective": [objective.name for objective in objectives],
        "weight": [_weight(objective) for objective in objectives],
        "when": [_when(objective, of) for objective in objectives],
    }
    used = {title: cells for title, cells in about.items() if any(cells)}
    columns = [(title, *cells) for title, cells in used.items()]
    columns += [(network.title, *network.cells) for network in networks]
    below = ["optimizer", *[""] * (len(used) - 1), *(network.optimizer for network in networks)]
    if apart := any(network.optimizer for network in networks):
        columns = [(*column, cell) for column, cell in zip(columns, below, strict=True)]
    return _Grid(tuple(columns), len(used), apart)


def _in_rows(of: _Routing, networks: list[_Network]) -> _Grid:
    flat = _in_columns(of, networks)
    about, body = flat.columns[1 : flat.fixed], flat.columns[flat.fixed :]
    rows = [("network", *flat.columns[0][1:]), *about, *body]
    return _Grid(tuple(zip(*rows, strict=True)), 1, False)


def _cut(grid: _Grid, width: int) -> list[_Grid]:
    """The grid, or parts of it that fit."""
    fixed, others = grid.columns[: grid.fixed], list(grid.columns[grid.fixed :])
    parts = []
    while others:
        count = len(others)
        while count > 1 and _wide(_Grid((*fixed, *others[:count]), grid.fixed, grid.last)) > width:
            count -= 1
        parts.append(_Grid((*fixed, *others[:count]), grid.fixed, grid.last))
        others = others[count:]
    return parts


def _wide(grid: _Grid) -> int:
    """The length of its lines, with a blank in front and three between columns."""
    return sum(max(map(len, column)) + 3 for column in grid.columns) - 1


def _rendered(grid: _Grid, width: int) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in grid.columns:
        table.add_column(column[0], no_wrap=True)
    rows = list(zip(*(column[1:] for column in grid.columns), strict=True))
    for row in rows[: len(rows) - grid.last]:
        table.add_row(*row)
    if grid.last:
        table.add_section()
        table.add_row(*rows[-1])
    console = Console(width=max(width, _wide(grid)), record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _filled(words: Sequence[str], width: int) -> str:
    """Words with blanks between them, in as few lines as they fit into."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}   {word}" if lines[-1] else word
        lines = [*lines[:-1], longer] if len(longer) <= width else [*lines, word]
    return "\n".join(line for line in lines if line)
