"""The interactive figures of a report, one function a kind. They hold thinned numbers and no style
that depends on light or dark: the page settles that when it is opened."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from polytape.reports.sampling import (
    Series,
    fenced,
    mean_of,
    over_runs,
    window_means,
)
from polytape.reports.study import Study
from polytape.reports.style import NEUTRAL, OPPOSED, TOGETHER, strokes
from polytape.reports.tables import ARROWS, decimals

Look = dict[str, Any]
Strokes = dict[str, Look]
PANEL = 300  # pixels high
LONGEST = 26  # letters of a name beside a heat map
DIVERGING = [[0.0, OPPOSED], [0.5, NEUTRAL], [1.0, TOGETHER]]
RISING = [[0.0, NEUTRAL], [1.0, OPPOSED]]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with its words.

    name     of its element in the page
    title    what it shows
    seen     what is seen in it, in a sentence or two
    wide     whether it takes the whole width, and not a column
    """

    name: str
    title: str
    figure: go.Figure
    height: int = PANEL
    seen: str = ""
    wide: bool = False

    @property
    def json(self) -> str:
        """For a script element: no character in it ends one."""
        text = str(self.figure.to_json())
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def looks(study: Study) -> Strokes:
    """{method: its colour, and its dash as Plotly writes it}."""
    found = strokes(study.methods, study.base)
    return {
        method: {"color": look["color"], "dash": _dash(look["linestyle"])}
        for method, look in found.items()
    }


def safe(text: str) -> str:
    """Plotly reads tags in every text; a name is to be shown as it is."""
    return html.escape(text, quote=False)


# --------------------------------------------------------------------------- lines


def lines(
    name: str,
    title: str,
    runs: dict[str, list[Series]],
    look: Strokes,
    *,
    x: str,
    windows: int,
    logarithmic: bool = False,
    seen: str = "",
) -> Plot:
    """One panel: a line for each method, the mean over its runs, and a band from lowest to highest.

    windows  of time, for a curve of many more points: then the line is the mean in each, and the
             band holds all that is in it

    Runs that were recorded at different moments have no mean, and are drawn one by one.
    """
    figure = _empty()
    values = []
    for method, series in runs.items():
        groups = [series] if _comparable(series) else [[one] for one in series]
        for group in groups:
            values += _with_band(figure, method, group, look[method], windows)
    numbers = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.zeros(0)
    if logarithmic and len(numbers) and numbers.min() > 0 and numbers.max() > 8 * numbers.min():
        figure.update_yaxes(type="log", dtick=1 if numbers.max() > 100 * numbers.min() else "D2")
    figure.update_xaxes(title=x)
    return Plot(name, title, figure, seen=seen)


def thins(length: int, windows: int) -> bool:
    """Whether a curve of that length is drawn by windows: not if it has hardly more points."""
    return length > 2 * windows


def _with_band(
    figure: go.Figure, method: str, series: list[Series], look: Look, windows: int
) -> list[np.ndarray]:
    band = over_runs(series)
    thinned = thins(len(band.x), windows)
    line, values = Series(band.x, band.mean), [band.mean]
    if thinned:
        x, means = window_means(band.x, band.mean[None], windows)
        line = Series(x, means[0])
    if len(series) > 1 or thinned:
        edges = fenced(band, windows if thinned else len(band.x))
        # Of a window with one value far from the others the eye sees the edge alone.
        edge = {"width": 1 if thinned else 0, "color": _pale(look, 0.45)}
        for one, filled in zip(edges, (None, "tonexty"), strict=True):
            values.append(one.y)
            figure.add_scatter(
                x=_short(one.x),
                y=_short(one.y),
                fill=filled,
                fillcolor=_pale(look, 0.15),
                mode="lines",
                line=edge,
                hoverinfo="skip",
                legendgroup=method,
            )
    _line(figure, method, line, look)
    return values


def _line(figure: go.Figure, method: str, series: Series, look: Look) -> None:
    alone = int(np.isfinite(series.y).sum()) == 1
    figure.add_scatter(
        x=_short(series.x),
        y=_short(series.y),
        name=safe(method),
        legendgroup=method,
        mode="markers" if alone else "lines",
        line={"width": 2, **look},
        marker={"color": look["color"], "size": 7},
        hovertemplate="%{x}: %{y:.4g}",
    )


def _comparable(series: Sequence[Series]) -> bool:
    """Whether runs were recorded at the same moments, as far as each got."""
    together = len(np.unique(np.concatenate([one.x for one in series])))
    return together <= 1.2 * max(len(one.x) for one in series)


# --------------------------------------------------------------------------- heat maps


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
    labels = [safe(_cut(method)) for method in methods]
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
    figure = _empty()
    figure.add_heatmap(
        x=x_values if isinstance(x_values, list) else _short(x_values),
        y=list(range(len(rows))),
        z=_short(table),
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
        ticktext=[safe(_cut(row)) for row in rows],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title=x, showgrid=False)
    return Plot(name, title, figure, height=110 + 22 * max(len(rows), 3), seen=seen)


# --------------------------------------------------------------------------- trade-offs


def scatter(name: str, title: str, study: Study, look: Strokes, *, seen: str = "") -> Plot:
    """Two objectives, one against the other; better is up and right."""
    figure = _empty()
    for method in study.methods:
        ends = [[track.ends[o] for o in study.objectives] for track in study.of(method)
                if track.ends]  # fmt: skip
        if ends:
            points = np.array(ends, float)
            mean = points.mean(axis=0, keepdims=True)
            for where, size, opacity in ((points, 6, 0.5), (mean, 13, 1.0)):
                figure.add_scatter(
                    x=_short(where[:, 0]),
                    y=_short(where[:, 1]),
                    mode="markers",
                    name=safe(method),
                    legendgroup=method,
                    marker={"size": size, "opacity": opacity, **_marker(look[method])},
                    hovertemplate="%{x:.4g}, %{y:.4g}",
                )
    for objective, axis in zip(study.objectives, ("x", "y"), strict=True):
        metric, goal = study.headline[objective]
        text = f"{objective}: {metric} {ARROWS[goal]}"
        reverse = "reversed" if goal == "min" else True
        update = figure.update_xaxes if axis == "x" else figure.update_yaxes
        update(title=safe(text), autorange=reverse)
    return Plot(name, title, figure, height=400, seen=seen, wide=True)


def parallel(name: str, title: str, study: Study, look: Strokes, *, seen: str = "") -> Plot:
    """Each objective an axis from the worst run to the best; lines that cross are a trade-off."""
    figure = _empty()
    ends = {m: [t.ends for t in study.of(m) if t.ends] for m in study.methods}
    ends = {method: found for method, found in ends.items() if found}
    places = list(range(len(study.objectives)))
    ranges = {o: _worst_and_best(study, o) for o in study.objectives}
    for method, found in ends.items():
        table = np.array([[one[o] for o in study.objectives] for one in found], float)
        heights = np.array(
            [[_height(one[o], ranges[o]) for o in study.objectives] for one in found], float
        )
        for row, height in zip(table, heights, strict=True):
            figure.add_scatter(
                x=places,
                y=_short(height),
                mode="markers",
                name=safe(method),
                legendgroup=method,
                marker={"size": 5, "opacity": 0.5, "color": look[method]["color"]},
                customdata=_short(row),
                hovertemplate="%{customdata:.4g}",
            )
        figure.add_scatter(
            x=places,
            y=_short(heights.mean(axis=0)),
            mode="lines+markers",
            name=safe(method),
            legendgroup=method,
            line={"width": 3 if method == study.base else 2, **look[method]},
            marker={"size": 8, "color": look[method]["color"]},
            customdata=_short(table.mean(axis=0)),
            hovertemplate="%{customdata:.4g}",
        )
    for place, objective in zip(places, study.objectives, strict=True):
        digits = decimals(ranges[objective])
        for end, height, shift in zip(ranges[objective], (0, 1), (-14, 14), strict=True):
            figure.add_annotation(
                x=place, y=height, yshift=shift, text=f"{end:.{digits}f}", showarrow=False
            )
    figure.update_xaxes(
        tickmode="array",
        tickvals=places,
        ticktext=[
            safe(_cut(f"{o}: {study.headline[o][0]} {ARROWS[study.headline[o][1]]}"))
            for o in study.objectives
        ],
        range=[-0.35, len(places) - 0.65],
        zeroline=False,
    )
    figure.update_yaxes(visible=False, range=[-0.13, 1.13])
    return Plot(name, title, figure, height=400, seen=seen, wide=True)


def volumes(name: str, title: str, values: dict[str, float], look: Strokes, *, seen: str) -> Plot:
    """The hypervolume of each method, as bars."""
    figure = _empty()
    figure.add_bar(
        y=[safe(_cut(method)) for method in values],
        x=_short(np.array(list(values.values()))),
        orientation="h",
        marker={"color": [look[method]["color"] for method in values]},
        text=[f"{value:.3f}" for value in values.values()],
        textposition="auto",
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )
    figure.update_xaxes(title="share of the box", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return Plot(name, title, figure, height=110 + 28 * max(len(values), 2), seen=seen, wide=True)


def _worst_and_best(study: Study, objective: str) -> tuple[float, float]:
    numbers = [track.ends[objective] for track in study.tracks if track.ends]
    low, high = min(numbers), max(numbers)
    if low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    return (low, high) if study.headline[objective][1] == "max" else (high, low)


def _height(number: float, ends: tuple[float, float]) -> float:
    return (number - ends[0]) / (ends[1] - ends[0])


# --------------------------------------------------------------------------- looks


def _empty() -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        hovermode="closest",
        dragmode=False,  # a finger scrolls the page; the tools above a figure zoom it
    )
    figure.update_xaxes(automargin=True, nticks=6)
    figure.update_yaxes(automargin=True, nticks=6)
    return figure


def _dash(linestyle: Any) -> str:
    return "solid" if linestyle == "-" else ",".join(f"{2 * step:g}px" for step in linestyle[1])


def _marker(look: Look) -> dict[str, Any]:
    """Hollow where a line would be dashed."""
    symbol = "circle" if look["dash"] == "solid" else "circle-open"
    return {"color": look["color"], "symbol": symbol, "line": {"width": 1.6}}


def _pale(look: Look, opacity: float) -> str:
    red, green, blue = (int(look["color"][place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _short(numbers: np.ndarray) -> np.ndarray:
    """Seven digits are enough for the eye, and half as long in the page."""
    return np.asarray(numbers, np.float32)


def _cut(name: str) -> str:
    """The beginning and the end of a long name."""
    if len(name) <= LONGEST:
        return name
    half = (LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def mean_over(series: Sequence[Series]) -> float:
    """Of all numbers of all runs, each run counting alike; NaN if there is none."""
    means = np.array([mean_of(one.y, axis=0) for one in series], float)
    return float(mean_of(means, axis=0)) if len(means) else float("nan")
