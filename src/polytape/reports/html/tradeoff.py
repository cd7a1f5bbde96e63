"""What was traded for what: the ends of training side by side, and the hypervolume."""

from typing import Any

import numpy as np

from polytape.reports.html.hypervolume import TooManyPointsError, hypervolume, scaled
from polytape.reports.html.parts import Look, Plot, Section, Strokes, cut, empty, looks, safe, short
from polytape.reports.html.study import Study
from polytape.reports.tables import ARROWS, decimals


def tradeoff(study: Study) -> list[Section]:
    methods = [m for m in study.methods if any(track.ends for track in study.of(m))]
    if len(methods) < 2 or len(study.objectives) < 2:
        return []
    look = looks(study)
    if len(study.objectives) == 2:
        lead = (
            "The end of training. Better is up and right. Large: mean over runs; small: each run."
        )
        found = [scatter("tradeoff", "One objective against the other", study, look)]
    else:
        lead = (
            "The end of training. Each axis runs from the worst run (bottom) to the best (top). "
            "Lines that cross: one objective was bought with another. Small dots: each run."
        )
        found = [parallel("tradeoff", "Objectives side by side", study, look)]
    try:
        found.append(_volumes(study, methods, look))
    except TooManyPointsError as error:
        lead += f" The hypervolume is not shown: {error}"
    return [Section("tradeoff-section", "Trade-off between objectives", lead, found)]


def _volumes(study: Study, methods: list[str], look: Strokes) -> Plot:
    goals = [study.headline[objective][1] for objective in study.objectives]
    ends = {
        method: [[t.ends[o] for o in study.objectives] for t in study.of(method) if t.ends]
        for method in methods
    }
    among = [end for group in ends.values() for end in group]
    values = {
        method: hypervolume(scaled(group, goals, among).tolist(), [1.0] * len(goals))
        for method, group in ends.items()
    }
    best = max(values, key=lambda method: values[method])
    counts = sorted({len(group) for group in ends.values()})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seen = (
        "How much of a box of outcomes the runs of a method cover together, exactly; more is "
        f"better ({each} run{'s' * (counts[-1] > 1)} each). The box lies between the best value of "
        "each objective over all runs, and the reference point: the worst value of each, moved a "
        f"tenth of the range beyond. {best} covers most ({values[best]:.3f})."
    )
    if len(counts) > 1:
        seen += " More runs cover more: compare methods with equally many."
    return volumes("hypervolume", "Hypervolume", values, look, seen=seen)


def scatter(name: str, title: str, study: Study, look: Strokes, *, seen: str = "") -> Plot:
    """Two objectives, one against the other; better is up and right."""
    figure = empty()
    for method in study.methods:
        ends = [[track.ends[o] for o in study.objectives] for track in study.of(method)
                if track.ends]  # fmt: skip
        if ends:
            points = np.array(ends, float)
            mean = points.mean(axis=0, keepdims=True)
            for where, size, opacity in ((points, 6, 0.5), (mean, 13, 1.0)):
                figure.add_scatter(
                    x=short(where[:, 0]),
                    y=short(where[:, 1]),
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
    figure = empty()
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
                y=short(height),
                mode="markers",
                name=safe(method),
                legendgroup=method,
                marker={"size": 5, "opacity": 0.5, "color": look[method]["color"]},
                customdata=short(row),
                hovertemplate="%{customdata:.4g}",
            )
        figure.add_scatter(
            x=places,
            y=short(heights.mean(axis=0)),
            mode="lines+markers",
            name=safe(method),
            legendgroup=method,
            line={"width": 3 if method == study.base else 2, **look[method]},
            marker={"size": 8, "color": look[method]["color"]},
            customdata=short(table.mean(axis=0)),
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
            safe(cut(f"{o}: {study.headline[o][0]} {ARROWS[study.headline[o][1]]}"))
            for o in study.objectives
        ],
        range=[-0.35, len(places) - 0.65],
        zeroline=False,
    )
    figure.update_yaxes(visible=False, range=[-0.13, 1.13])
    return Plot(name, title, figure, height=400, seen=seen, wide=True)


def volumes(name: str, title: str, values: dict[str, float], look: Strokes, *, seen: str) -> Plot:
    """The hypervolume of each method, as bars."""
    figure = empty()
    figure.add_bar(
        y=[safe(cut(method)) for method in values],
        x=short(np.array(list(values.values()))),
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


def _marker(look: Look) -> dict[str, Any]:
    """Hollow where a line would be dashed."""
    symbol = "circle" if look["dash"] == "solid" else "circle-open"
    return {"color": look["color"], "symbol": symbol, "line": {"width": 1.6}}
