"""From the record of a comparison to the numbers of its table."""

import dataclasses
import statistics
from collections.abc import Callable

from polytape.diagnostics.records import Comparison, Run, opposition


@dataclasses.dataclass(frozen=True)
class Cell:
    """Mean over seeds, sample standard deviation (None for one seed), best of its column."""

    mean: float
    spread: float | None
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One method's line of the table; None where it has no finished run to speak for it.

    cells     {objective: headline number at the end of training}
    conflict  see `conflict`; mean over probes and seeds
    gain      mean over objectives of the relative improvement over the baseline, in percent
    cost      step time divided by the baseline's
    seconds   step time: median over all epochs but the first (it compiles), then over seeds
    note      what went wrong, "" if nothing did
    """

    method: str
    cells: dict[str, Cell | None]
    conflict: float | None
    gain: float | None
    cost: float | None
    seconds: float | None
    note: str


def baseline(comparison: Comparison) -> str:
    """What the others are compared with: the plain sum if it took part, else the first method."""
    names = comparison.methods
    return next((name for name in names if name.lower() == "sum"), names[0])


def conflict(run: Run) -> float | None:
    """Mean over probes of the `opposition` of the objectives' gradients.

    >>> conflict(Run("Sum", 0, cosines=[[[1.0, -0.5], [-0.5, 1.0]], [[1.0, 0.3], [0.3, 1.0]]]))
    0.25
    """
    return statistics.fmean(map(opposition, run.cosines)) if run.cosines else None


def step_time(run: Run) -> float | None:
    """Median seconds of a step over all epochs but the first."""
    return statistics.median(run.step_seconds[1:]) if len(run.step_seconds) > 1 else None


def summarise(comparison: Comparison) -> list[Row]:
    """One row for each method that was run at all, in the order of the comparison."""
    base = baseline(comparison)
    runs = {name: comparison.of(name) for name in comparison.methods}
    cells = {name: _cells(comparison, runs[name]) for name in runs}
    for objective in comparison.objectives:
        _mark_best(comparison, cells, objective)
    seconds = {name: _mean(runs[name], step_time, statistics.median) for name in runs}
    return [
        Row(
            method=name,
            cells=cells[name],
            conflict=_mean(runs[name], conflict, statistics.fmean),
            gain=_gain(comparison, cells[name], cells[base]),
            cost=_ratio(seconds[name], seconds[base]),
            seconds=seconds[name],
            note=_note(comparison, name),
        )
        for name in comparison.methods
        if runs[name]
    ]


def _finished(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.status == "finished"]


def _cells(comparison: Comparison, runs: list[Run]) -> dict[str, Cell | None]:
    found: dict[str, Cell | None] = {}
    for objective in comparison.objectives:
        key = comparison.headline_key(objective)
        last = [run.history[key][-1] for run in _finished(runs)]
        spread = statistics.stdev(last) if len(last) > 1 else None
        found[objective] = Cell(statistics.fmean(last), spread) if last else None
    return found


def _mark_best(
    comparison: Comparison, cells: dict[str, dict[str, Cell | None]], objective: str
) -> None:
    sign = 1 if comparison.headline[objective][1] == "max" else -1
    known = [row[objective] for row in cells.values() if row[objective] is not None]
    top = max((sign * cell.mean for cell in known if cell is not None), default=None)
    for row in cells.values():
        cell = row[objective]
        if cell is not None and sign * cell.mean == top:
            row[objective] = dataclasses.replace(cell, best=True)


def _mean(
    runs: list[Run],
    measure: Callable[[Run], float | None],
    centre: Callable[[list[float]], float],
) -> float | None:
    values = [measure(run) for run in _finished(runs)]
    known = [value for value in values if value is not None]
    return centre(known) if known else None


def _gain(
    comparison: Comparison, cells: dict[str, Cell | None], base: dict[str, Cell | None]
) -> float | None:
    gains = []
    for objective, (_, goal) in comparison.headline.items():
        mine, theirs = cells[objective], base[objective]
        if mine is None or theirs is None or theirs.mean == 0:
            return None
        change = (mine.mean - theirs.mean) / abs(theirs.mean)
        gains.append(change if goal == "max" else -change)
    return 100 * statistics.fmean(gains)


def _ratio(mine: float | None, base: float | None) -> float | None:
    return mine / base if mine is not None and base else None


def _note(comparison: Comparison, method: str) -> str:
    runs = comparison.of(method)
    parts = []
    for status in ("diverged", "failed"):
        bad = [run for run in runs if run.status == status]
        if bad:
            parts.append(f"{status} in {len(bad)} of {len(comparison.seeds)}: {bad[0].reason}")
    if len(runs) < len(comparison.seeds):
        parts.append(f"{len(runs)} of {len(comparison.seeds)} seeds run")
    return "; ".join(parts)
