"""The routing table as text: objectives in rows, networks in columns, their optimizers below."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from polytape.training.objectives.objective import Objective
from polytape.training.optimizers.division import several, unscaled
from polytape.training.routing.routes import Places

TRAINS, DISCARDED, APART, UNKNOWN = "●", "○", "·", "?"
LEGEND = {
    TRAINS: "trained",
    DISCARDED: "reached, but not on its route",
    APART: "not trained",
    UNKNOWN: "trained if reached: known at the first step",
}
_OF_NORMS = "numbers: norm of the loss's gradient on this batch"


Norms = Mapping[str, np.ndarray]  # {objective: (V,)}


def routing_table(plan: Any, norms: Norms | None = None, width: int = 100) -> str:
    """The table of a plan that is complete: what is declared and, after a step, what is reached.

    norms  of the gradients on some batch: shown behind the signs, of what is discarded, too
    """
    places, given = plan.places, list(plan.objectives.given.values())
    cells = [_cells(objective, plan, places, norms) for objective in given]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("objective", "weight", "when", *places.networks):
        table.add_column(title)
    for objective, row in zip(given, cells, strict=True):
        table.add_row(objective.name, _weight(objective), _when(objective, plan), *row)
    table.add_section()
    table.add_row("optimizer", "", "", *(_optimizers(plan, name) for name in places.networks))
    used = [sign for sign in LEGEND if any(sign in cell for row in cells for cell in row)]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    legend = [f"{sign} {LEGEND[sign]}" for sign in used] + [_OF_NORMS] * (norms is not None)
    return console.export_text().rstrip() + "\n" + "   ".join(legend)


def _cells(objective: Objective, plan: Any, places: Places, norms: Norms | None) -> list[str]:
    allowed, reach = plan.routes[objective.name], plan.reaches.get(objective.name)
    length = None if norms is None else norms[objective.name]
    if reach is None and length is not None:
        reach = length > 0
    cells = []
    for own in map(places.of, places.networks):
        cell = _cell(allowed[own], None if reach is None else reach[own], objective)
        if length is not None and cell != APART:
            counted = allowed[own] if cell.startswith(TRAINS) else True
            cell += f" {np.linalg.norm(length[own] * counted):.3g}"
        cells.append(cell)
    return cells


def _cell(allowed: np.ndarray, reach: np.ndarray | None, objective: Objective) -> str:
    if reach is None:
        return APART if not allowed.any() else UNKNOWN if objective.trains is None else TRAINS
    both = allowed & reach
    if both.any():
        return TRAINS if both.all() else f"{TRAINS} {both.sum()} of {len(both)}"
    return DISCARDED if reach.any() else APART


def _weight(objective: Objective) -> str:
    weight = objective.weight
    return f"{weight:g}" if isinstance(weight, float) else type(weight).__name__


def _when(objective: Objective, plan: Any) -> str:
    words = []
    if len(plan.phases) > 1:
        number, phase = next(
            (n, p) for n, p in enumerate(plan.phases) if objective.name in p.objectives
        )
        words.append(f"phase {number + 1}" + (f" x {phase.steps}" if phase.steps > 1 else ""))
    if objective.every > 1:
        words.append(f"every {objective.every}")
    if objective.when is not None:
        words.append("conditional")
    return ", ".join(words)


def _optimizers(plan: Any, network: str) -> str:
    """The optimizers of a network's variables."""
    own = plan.places.of(network)
    parts = several(plan.model.optimizer)
    owners: Sequence[str] = parts.owners if parts is not None and parts.owners else ()
    return ", ".join(dict.fromkeys(plan.optimizers[owners[v] if owners else ""] for v in own))


def described(optimizer: Any) -> dict[str, str]:
    """Optimizers and their rates in words, by name: "" if there is but one."""
    if (parts := several(optimizer)) is not None:
        return {name: _described(parts[name]) for name in parts}
    return {"": _described(unscaled(optimizer))}


def _described(optimizer: Any) -> str:
    rate = optimizer.learning_rate  # a variable, unless it follows a schedule
    shown = f" {float(rate.value):.3g}" if isinstance(rate, keras.Variable) else ""
    return type(optimizer).__name__ + shown
