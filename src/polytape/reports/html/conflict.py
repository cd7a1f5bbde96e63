"""Heat maps of conflict: pairs of objectives over time, layers over time and by method."""

import math
from typing import Any

import numpy as np

from polytape.reports.html.parts import (
    ROWS,
    Budget,
    Plot,
    Section,
    cut,
    empty,
    safe,
    short,
    whole_epochs,
)
from polytape.reports.html.sampling import Series, mean_over, over_runs, window_means
from polytape.reports.html.study import Study
from polytape.reports.style import NEUTRAL, OPPOSED, TOGETHER

DIVERGING = [[0.0, OPPOSED], [0.5, NEUTRAL], [1.0, TOGETHER]]
RISING = [[0.0, NEUTRAL], [1.0, OPPOSED]]


def conflict(study: Study, budget: Budget) -> Section:
    found = []
    left_out = 0
    for place, method in enumerate(study.methods):
        rows: dict[str, list[Series]] = {}
        for track in study.of(method):
            for (one, other), series in track.pairs.items():
                rows.setdefault(f"{one} – {other}", []).append(series)
        means = {row: mean_over(series) for row, series in rows.items()}
        rows = {row: series for row, series in rows.items() if math.isfinite(means[row])}
        if not rows:
            continue
        kept = _highest({row: -means[row] for row in rows})
        left_out = max(left_out, len(rows) - len(kept))
        found.append(
            over_time(
                f"conflict-{place}",
                method,
                {row: rows[row] for row in kept},
                x=study.clock["pairs"],
                columns=budget.columns,
                cosines=True,
                seen=_seen_pair(rows, means),
            )
        )
    lead = (
        f"The cosine between the gradients of each two objectives, {study.measured}. Below 0 "
        "(orange) an update for one makes the other worse; above 0 (blue) it helps both. "
        + _windows_words(study, budget, "pairs")
    )
    if left_out:
        lead += f" The {ROWS} most opposed pairs are shown, {left_out} others are not."
    empty = "No conflict was measured: fewer than two objectives meet in a variable."
    return Section("conflict", "Conflict over time", lead, found, empty)


def _seen_pair(rows: dict[str, list[Series]], means: dict[str, float]) -> str:
    lowest = min(rows, key=lambda row: means[row])
    numbers = np.concatenate([one.y[np.isfinite(one.y)] for one in rows[lowest]])
    below = 100 * float((numbers < 0).mean())
    word = "Most opposed" if means[lowest] < 0 else "Least together"
    mean = f"{round(means[lowest], 2) + 0.0:.2f} on average"  # no minus before a zero
    return f"{word}: {lowest}, cosine {mean}, below 0 in {below:.0f} % of the records."


def layers(study: Study, budget: Budget) -> list[Section]:
    by_part: dict[str, dict[str, list[Series]]] = {}  # {method: {layer: of its runs}}
    for method in study.methods:
        for track in study.of(method):
            for part, series in track.parts.items():
                by_part.setdefault(method, {}).setdefault(part, []).append(series)
    means = {
        method: {
            part: mean for part, series in rows.items() if math.isfinite(mean := mean_over(series))
        }
        for method, rows in by_part.items()
    }
    means = {method: mean for method, mean in means.items() if mean}
    if not means:
        return []
    found = [
        over_time(
            f"layers-{place}",
            method,
            {part: by_part[method][part] for part in _highest(mean)},
            x=study.clock["parts"],
            columns=budget.columns,
            seen=_seen_part(mean),
        )
        for place, (method, mean) in enumerate(means.items())
    ]
    if len(found) > 1:
        of_all = {part: {m: means[m][part] for m in means if part in means[m]}
                  for mean in means.values() for part in mean}  # fmt: skip
        shown = _highest({part: max(row.values()) for part, row in of_all.items()})
        rows = {part: of_all[part] for part in shown}
        found.insert(0, by_method("layers", "All methods, mean over time", rows))
    lead = (
        "How opposed the gradients are in each layer or network that several objectives train, "
        f"{study.measured}: the mean over pairs of objectives of max(0, -cosine). 0: never "
        "opposed. Where few of them hold the conflict, it may be enough to settle it there. "
        + _windows_words(study, budget, "parts")
    )
    if max(map(len, means.values())) > ROWS:
        lead += f" Only the {ROWS} with the most conflict are shown."
    return [Section("layers-section", "Conflict by layer", lead, on_one_scale(found))]


def _highest(means: dict[str, float]) -> list[str]:
    """The names of the highest, no more than a heat map has rows, in the order they came in."""
    kept = set(sorted(means, key=lambda name: -means[name])[:ROWS])
    return [name for name in means if name in kept]


def _seen_part(means: dict[str, float]) -> str:
    high, low = max(means, key=lambda p: means[p]), min(means, key=lambda p: means[p])
    if high == low:
        return f"{high}: {means[high]:.2f} on average."
    return f"Most opposed: {high} ({means[high]:.2f}); least: {low} ({means[low]:.2f})."


def _windows_words(study: Study, budget: Budget, which: str) -> str:
    lengths = [
        len(series.x)
        for track in study.tracks
        for series in (track.pairs if which == "pairs" else track.parts).values()
    ]
    words = "Mean over the runs of a method." if len(study.tracks) > len(study.methods) else ""
    if max(lengths, default=0) > budget.columns:
        words += f" Each column is the mean over one of {budget.columns} windows of time."
    return words


def over_time(
    name: str,
    title: str,
    rows: dict[str, list[Series]],
    *,
    x: str,
    columns: int,
    cosines: bool = False,
    seen: str = "",
) -> Plot:
    """A heat map: a row for each pair or layer, the mean over runs and over windows of time."""
    bands = {row: over_runs(series) for row, series in rows.items()}
    moments = np.unique(np.concatenate([band.x for band in bands.values()]))
    table = np.full((len(bands), len(moments)), np.nan)
    for line, band in zip(table, bands.values(), strict=True):
        line[np.searchsorted(moments, band.x)] = band.mean
    centres, means = window_means(moments, table, columns)
    return _heat_map(name, title, list(rows), centres, means, x=x, cosines=cosines, seen=seen)


def on_one_scale(found: list[Plot]) -> list[Plot]:
    """The same heat maps, with the same colour for the same number."""
    highest = max(heat_map.zmax for plot in found for heat_map in plot.figure.data)
    for plot in found:
        plot.figure.update_traces(zmax=highest)
    return found


def by_method(name: str, title: str, rows: dict[str, dict[str, float]], *, seen: str = "") -> Plot:
    """A heat map: a row for each layer, a column for each method."""
    methods = list(dict.fromkeys(method for row in rows.values() for method in row))
    table = np.array([[row.get(m, np.nan) for m in methods] for row in rows.values()])
    labels = [safe(cut(method)) for method in methods]
    return _heat_map(name, title, list(rows), labels, table, x="", seen=seen)


def _heat_map(
    name: str,
    title: str,
    rows: list[str],
    x_values: Any,
    table: np.ndarray,
    *,
    x: str,
    cosines: bool = False,
    seen: str,
) -> Plot:
    highest = float(np.nanmax(table)) if np.isfinite(table).any() else 0.0
    figure = empty()
    figure.add_heatmap(
        x=x_values if isinstance(x_values, list) else short(x_values),
        y=list(range(len(rows))),
        z=short(table),
        zmin=-1 if cosines else 0,
        zmax=1 if cosines else max(0.2, highest),
        colorscale=DIVERGING if cosines else RISING,
        colorbar={"thickness": 10, "len": 1, "outlinewidth": 0, "tickfont": {"size": 11}},
        hovertemplate="%{y}<br>%{x}: %{z:.3f}<extra></extra>",
        hoverongaps=False,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(rows))),
        ticktext=[safe(cut(row)) for row in rows],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title=x, showgrid=False)
    if x == "epoch":
        whole_epochs(figure, x_values)
    return Plot(name, title, figure, height=110 + 22 * max(len(rows), 3), seen=seen)
