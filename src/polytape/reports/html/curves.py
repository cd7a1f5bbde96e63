"""Curves: one panel an objective, one line a method, and what is seen in them."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from polytape.reports.html.parts import (
    Budget,
    Look,
    Plot,
    Section,
    Strokes,
    empty,
    looks,
    safe,
    short,
    whole_epochs,
)
from polytape.reports.html.sampling import Series, fenced, mean_over, over_runs, window_means
from polytape.reports.html.study import Quantity, Study
from polytape.reports.tables import ARROWS


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is drawn over time for each objective.

    name         of the section's element
    lead         what is shown and how to read it
    seen         (study, objective, {method: its runs}) -> what is seen in a panel
    empty        what is said where nothing was recorded; "" leaves the section out
    logarithmic  whether the axis may be
    """

    quantity: Quantity
    name: str
    title: str
    lead: str
    seen: Callable[[Study, str, dict[str, list[Series]]], str]
    empty: str = ""
    logarithmic: bool = False


def learning(study: Study, budget: Budget) -> list[Section]:
    """How each objective was learned."""
    spread = ""
    if max((len(study.of(method)) for method in study.methods), default=0) > 1:
        spread = " Line: the mean over the runs of a method; band: from the lowest to the highest."
    kinds = [
        Kind(
            "learning",
            "learning",
            "Learning curves",
            "Validation, one panel an objective." + spread,
            _seen_best,
            logarithmic=True,
        ),
        Kind(
            "loss",
            "losses",
            "Training losses",
            "The loss of each objective on the training data." + spread,
            _seen_fall,
            logarithmic=True,
        ),
    ]
    return _sections(study, budget, kinds)


def gradients(study: Study, budget: Budget) -> list[Section]:
    """What became of each objective's gradient."""
    kinds = [
        Kind(
            "weight",
            "weights",
            "Weights",
            "The weight that each method gave each objective's gradient where several meet. Equal "
            "weights are a plain sum; a weight near 0 leaves the objective out.",
            _seen_mean,
            "No weights were recorded: the runs were not monitored, or their methods change the "
            "gradients themselves and have no weight for each objective.",
        ),
        Kind(
            "share",
            "shares",
            "Shares of the update",
            "How much of the update is an objective's; the shares add up to 1. Near 0, the "
            "objective hardly moves the network; below 0, the update goes against it.",
            _seen_mean,
            "No shares were recorded: the runs were not monitored, or their methods change the "
            "gradients themselves, so that the update is no weighted sum of them.",
        ),
        Kind(
            "norm",
            "norms",
            "Norms of the gradients",
            "How long the gradient of each objective is. Where norms differ by orders of "
            "magnitude, a plain sum follows the longest.",
            _seen_mean,
            "No gradients were measured.",
            logarithmic=True,
        ),
    ]
    return _sections(study, budget, kinds)


def _sections(study: Study, budget: Budget, kinds: Sequence[Kind]) -> list[Section]:
    found = [_panels(study, budget, kind) for kind in kinds]
    return [section for section in found if section.plots or section.empty]


def _panels(study: Study, budget: Budget, kind: Kind) -> Section:
    """A section with one panel an objective, one line a method."""
    look = looks(study)
    found = []
    thinned = broken = 0
    for place, (name, runs) in enumerate(_runs(study, kind.quantity).items()):
        every = [one for series in runs.values() for one in series]
        thinned = max(thinned, *(len(one.x) for one in every))
        broken += sum(int((~np.isfinite(one.y)).sum()) for one in every)
        heading, logarithmic = name, kind.logarithmic
        if kind.quantity == "learning":
            metric, goal = study.headline[name]
            heading = f"{name}: {metric} {ARROWS[goal]}"
            logarithmic = goal == "min"
        found.append(
            lines(
                f"{kind.name}-{place}",
                heading,
                runs,
                look,
                x=study.clock[kind.quantity],
                windows=budget.windows,
                logarithmic=logarithmic,
                seen=kind.seen(study, name, runs),
            )
        )
    lead = kind.lead
    if thins(thinned, budget.windows):
        lead += (
            f" Long curves show the mean in each of {budget.windows} windows of time, and a band "
            "from the lowest to the highest value in it: no extreme is left out."
        )
    if broken:
        lead += (
            f" {broken:,} of all values are no finite number, or the objective was not active: "
            "they are left out."
        )
    return Section(kind.name, kind.title, lead, found, kind.empty)


def _runs(study: Study, quantity: Quantity) -> dict[str, dict[str, list[Series]]]:
    """{objective, also "objective in network": {method: of its runs}}, objectives first."""
    found: dict[str, dict[str, list[Series]]] = {name: {} for name in study.objectives}
    for method in study.methods:
        for track in study.of(method):
            for name, series in track.curves.get(quantity, {}).items():
                if len(series.x):
                    found.setdefault(name, {}).setdefault(method, []).append(series)
    return {name: runs for name, runs in found.items() if runs}


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
    figure = empty()
    values = []
    for method, series in runs.items():
        groups = [series] if _comparable(series) else [[one] for one in series]
        for group in groups:
            values += _with_band(figure, method, group, look[method], windows)
    numbers = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.zeros(0)
    if logarithmic and len(numbers) and numbers.min() > 0 and numbers.max() > 8 * numbers.min():
        figure.update_yaxes(type="log", dtick=1 if numbers.max() > 100 * numbers.min() else "D2")
    figure.update_xaxes(title=x)
    if x == "epoch":
        whole_epochs(figure, np.concatenate([one.x for group in runs.values() for one in group]))
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
                x=short(one.x),
                y=short(one.y),
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
        x=short(series.x),
        y=short(series.y),
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


def _pale(look: Look, opacity: float) -> str:
    red, green, blue = (int(look["color"][place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _seen_best(study: Study, objective: str, runs: dict[str, list[Series]]) -> str:
    """Who is best at the end, and who is worst."""
    ends = {method: _mean([_last(one) for one in series]) for method, series in runs.items()}
    ends = {method: end for method, end in ends.items() if math.isfinite(end)}
    if not ends:
        return "No number at the end."
    upwards = study.headline[objective][1] == "max"
    best, *_, worst = sorted(ends, key=lambda m: ends[m], reverse=upwards) * 2
    if len(ends) == 1:
        return f"At the end {ends[best]:.4g}."
    if ends[best] == ends[worst]:
        return f"At the end {ends[best]:.4g} under every method."
    return f"At the end best: {best} ({ends[best]:.4g}); worst: {worst} ({ends[worst]:.4g})."


def _seen_fall(study: Study, objective: str, runs: dict[str, list[Series]]) -> str:
    """From where to where, with the method that ends lowest."""
    del study, objective
    ends = {method: _mean([_last(one) for one in series]) for method, series in runs.items()}
    ends = {method: end for method, end in ends.items() if math.isfinite(end)}
    if not ends:
        return "No finite number at the end."
    lowest = min(ends, key=lambda method: ends[method])
    start = _mean([_first(one) for one in runs[lowest]])
    return f"{lowest}: from {start:.4g} to {ends[lowest]:.4g}" + (
        ", the lowest." if len(ends) > 1 else "."
    )


def _seen_mean(study: Study, objective: str, runs: dict[str, list[Series]]) -> str:
    """Mean over the whole time, of the methods where it is highest and lowest."""
    del study, objective
    means = {method: mean_over(series) for method, series in runs.items()}
    means = {method: mean for method, mean in means.items() if math.isfinite(mean)}
    if not means:
        return "No number is finite."
    if len(means) == 1:
        return f"On average {next(iter(means.values())):.3g}."
    high, low = max(means, key=lambda m: means[m]), min(means, key=lambda m: means[m])
    if math.isclose(means[high], means[low], rel_tol=1e-3):
        return f"On average {means[high]:.3g} under every method."
    return f"On average highest: {high} ({means[high]:.3g}); lowest: {low} ({means[low]:.3g})."


def _last(series: Series) -> float:
    known = series.y[np.isfinite(series.y)]
    return float(known[-1]) if len(known) else math.nan


def _first(series: Series) -> float:
    known = series.y[np.isfinite(series.y)]
    return float(known[0]) if len(known) else math.nan


def _mean(numbers: list[float]) -> float:
    known = [number for number in numbers if math.isfinite(number)]
    return sum(known) / len(known) if known else math.nan
