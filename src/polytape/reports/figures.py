"""The pictures of a comparison: how the objectives were learned, and what was traded for what."""

import math
import os
import statistics
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from polytape.diagnostics.records import Comparison, Run
from polytape.reports.style import BASELINE, QUIET, RC, spread_out, strokes
from polytape.reports.summary import baseline
from polytape.reports.tables import ARROWS, decimals

Path = str | os.PathLike[str]


def curves(comparison: Comparison, path: Path) -> None:
    """Write a PNG: one panel an objective, one line a method, a band from seed to seed."""
    with matplotlib.rc_context(RC):
        columns = min(len(comparison.objectives), 3)
        rows = math.ceil(len(comparison.objectives) / columns)
        figure = Figure(figsize=(3.7 * columns + 0.5, 3.1 * rows + 1.05), layout=_layout())
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes in panels[len(comparison.objectives) :]:
            axes.set_visible(False)
        for axes, objective in zip(panels, comparison.objectives, strict=False):
            _curve_panel(axes, comparison, objective)
        _title(figure, comparison, _seeds_line(comparison))
        handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
        if handles:
            lines = math.ceil(len(labels) / (2.6 * columns))
            ncols = math.ceil(len(labels) / lines)
            figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
        figure.savefig(path)


def tradeoff(comparison: Comparison, path: Path) -> None:
    """Write a PNG of the final headline numbers, best towards the top (and the right).

    Two objectives: one against the other. More: one vertical axis an objective, from the worst
    method to the best, so that a method which buys one objective with another crosses the others.
    """
    with matplotlib.rc_context(RC):
        if len(comparison.objectives) == 2:
            figure = _scatter(comparison)
        else:
            figure = _parallel(comparison)
        figure.savefig(path)


# --------------------------------------------------------------------------- curves


def _curve_panel(axes: Any, comparison: Comparison, objective: str) -> None:
    metric, goal = comparison.headline[objective]
    key = comparison.headline_key(objective)
    styles = strokes(comparison.methods, baseline(comparison))
    values: list[float] = []
    for method in comparison.methods:
        histories = [run.history[key] for run in _finished(comparison, method)]
        if not histories:
            continue
        by_epoch = list(zip(*histories, strict=False))
        epochs = range(1, len(by_epoch) + 1)
        mean = [statistics.fmean(numbers) for numbers in by_epoch]
        low, high = [min(n) for n in by_epoch], [max(n) for n in by_epoch]
        marker = "o" if len(by_epoch) == 1 else None
        axes.plot(epochs, mean, label=method, linewidth=1.7, marker=marker, **styles[method])
        axes.fill_between(epochs, low, high, color=styles[method]["color"], alpha=0.13, linewidth=0)
        values += low + high
    if values and min(values) > 0 and max(values) > 8 * min(values) and goal == "min":
        axes.set_yscale("log")
    axes.set_title(f"{objective}: {metric} {ARROWS[goal]}")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


# --------------------------------------------------------------------------- trade-off


def _scatter(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(6.0, 5.0), layout=_layout())
    axes = figure.subplots()
    styles = strokes(comparison.methods, baseline(comparison))
    for method in comparison.methods:
        ends = _ends(comparison, method)
        if ends:
            colour = styles[method]["color"]
            first, second = ends.values()
            axes.scatter(first, second, s=16, color=colour, alpha=0.45, linewidth=0)
            mean = statistics.fmean(first), statistics.fmean(second)
            hollow = "white" if styles[method]["linestyle"] != "-" else colour
            axes.scatter(
                *mean, s=75, edgecolor=colour, facecolor=hollow, linewidth=1.6, label=method
            )
    for objective, axis in zip(comparison.objectives, (axes.xaxis, axes.yaxis), strict=True):
        metric, goal = comparison.headline[objective]
        axis.set_label_text(
            f"{objective} {metric} ({'more' if goal == 'max' else 'less'} is better)"
        )
        if goal == "min":
            axis.set_inverted(True)
    axes.margins(0.12)
    _title(figure, comparison, "Better is up and right. Large: mean over seeds; small: each seed.")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center")
    return figure


def _parallel(comparison: Comparison) -> Figure:
    count = len(comparison.objectives)
    figure = Figure(figsize=(2.2 * count + 2.0, 4.9), layout=_layout())
    axes = figure.subplots()
    axes.set_axis_off()
    styles = strokes(comparison.methods, baseline(comparison))
    ends = {method: _ends(comparison, method) for method in comparison.methods}
    ends = {method: found for method, found in ends.items() if found}
    heights: dict[str, list[float]] = {method: [] for method in ends}
    for place, objective in enumerate(comparison.objectives):
        numbers = [number for found in ends.values() for number in found[objective]]
        worst, best = _range(numbers, comparison.headline[objective][1])
        _vertical_axis(axes, place, objective, comparison, (worst, best))
        for method, found in ends.items():
            runs = [(number - worst) / (best - worst) for number in found[objective]]
            heights[method].append(statistics.fmean(runs))
            colour = styles[method]["color"]
            axes.scatter([place] * len(runs), runs, s=13, color=colour, alpha=0.5, linewidth=0)
    for method, height in heights.items():
        front = {"zorder": 4, "linewidth": 2.6} if method == baseline(comparison) else {"zorder": 3}
        axes.plot(
            range(count),
            height,
            marker="o",
            markersize=6,
            **{"linewidth": 1.9} | front,
            **styles[method],
            clip_on=False,
        )
    _labels(axes, count - 1, heights, styles)
    axes.set_xlim(-0.45, count - 0.3)
    axes.set_ylim(-0.13, 1.2)
    line = "Each axis runs from the worst run (bottom) to the best (top). Small dots: single seeds."
    _title(figure, comparison, line)
    return figure


def _vertical_axis(
    axes: Any, place: int, objective: str, comparison: Comparison, ends: tuple[float, float]
) -> None:
    metric, goal = comparison.headline[objective]
    axes.plot([place, place], [0, 1], color=QUIET, linewidth=0.9, zorder=1)
    text = {"ha": "center", "color": "#333333"}
    axes.text(place, 1.15, f"{objective}: {metric} {ARROWS[goal]}", fontweight="bold", **text)
    places = decimals(ends)
    axes.text(place, 1.05, f"{ends[1]:.{places}f}", **text)
    axes.text(place, -0.06, f"{ends[0]:.{places}f}", va="top", **text)


def _labels(axes: Any, place: int, heights: dict[str, list[float]], styles: dict[str, Any]) -> None:
    ends = [height[-1] for height in heights.values()]
    for method, end, y in zip(heights, ends, spread_out(ends, 0.075, 0.0, 1.0), strict=True):
        colour = styles[method]["color"]
        axes.plot([place + 0.04, place + 0.13], [end, y], color=colour, linewidth=0.8, alpha=0.6)
        weight = "bold" if colour == BASELINE else "normal"
        axes.text(place + 0.16, y, method, color=colour, va="center", fontweight=weight)


def _range(means: list[float], goal: str) -> tuple[float, float]:
    low, high = min(means, default=0.0), max(means, default=1.0)
    if low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    return (low, high) if goal == "max" else (high, low)


# --------------------------------------------------------------------------- shared


def _finished(comparison: Comparison, method: str) -> list[Run]:
    return [run for run in comparison.of(method) if run.status == "finished"]


def _ends(comparison: Comparison, method: str) -> dict[str, list[float]]:
    runs = _finished(comparison, method)
    return {
        objective: [run.history[comparison.headline_key(objective)][-1] for run in runs]
        for objective in comparison.objectives
        if runs
    }


def _seeds_line(comparison: Comparison) -> str:
    if len(comparison.seeds) == 1:
        return "Validation, one seed."
    return f"Validation. Line: mean over {len(comparison.seeds)} seeds; band: lowest to highest."


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07)


def _title(figure: Figure, comparison: Comparison, line: str) -> None:
    figure.suptitle(
        f"{comparison.problem}: {line}", x=0.012, ha="left", fontsize=10.5, color="#333333"
    )
