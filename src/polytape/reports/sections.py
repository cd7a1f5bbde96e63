"""The sections of a report: which figures there are, and what is seen in them, in plain words."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from polytape.reports import plots
from polytape.reports.hypervolume import TooManyPointsError, hypervolume, scaled
from polytape.reports.plots import Plot
from polytape.reports.sampling import Series
from polytape.reports.study import Quantity, Study

POINTS = 240_000  # of all curves together: some 3 MB
CELLS = 160_000  # of all heat maps together: some 1 MB
ROWS = 40  # of a heat map at most


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    name   of its element
    lead   what is shown and how to read it
    empty  what is said in the place of figures where there are none
    """

    name: str
    title: str
    lead: str
    plots: list[Plot] = dataclasses.field(default_factory=list)
    empty: str = ""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Into how many windows of time curves and heat maps are cut in this report, if they are."""

    windows: int
    columns: int

    @classmethod
    def of(cls, study: Study) -> "Budget":
        """So few that the page stays small, whatever the number of methods and objectives."""
        curves = rows = 0
        for method in study.methods:
            tracks = study.of(method)
            curves += max((sum(map(len, track.curves.values())) for track in tracks), default=0)
            for table in ([track.pairs for track in tracks], [track.parts for track in tracks]):
                rows += min(ROWS, max(map(len, table), default=0))
        return cls(
            # In a window a curve takes 5 points: its mean, and two for either edge of its band.
            windows=min(max(POINTS // (5 * max(curves, 1)), 20), 300),
            columns=min(max(CELLS // max(rows, 1), 20), 200),
        )


def sections(study: Study) -> list[Section]:
    """All that has figures, in the order of the page."""
    budget = Budget.of(study)
    return [
        *_learning(study, budget),
        *_tradeoff(study),
        _conflict(study, budget),
        *_parts(study, budget),
        _panels(study, budget, "weight", "weights", "Weights", WEIGHTS, NO_WEIGHTS),
        _panels(study, budget, "share", "shares", "Shares of the update", SHARES, NO_SHARES),
        _panels(
            study, budget, "norm", "norms", "Norms of the gradients", NORMS, "None was recorded."
        ),
    ]


WEIGHTS = (
    "The weight that each method gave each objective's gradient where several meet. Equal weights "
    "are a plain sum; a weight near 0 leaves the objective out."
)
NO_WEIGHTS = (
    "No weights were recorded: the runs were not monitored, or their methods change the gradients "
    "themselves and have no weight for each objective."
)
SHARES = (
    "How much of the update is an objective's; the shares add up to 1. Near 0, the objective "
    "hardly moves the network; below 0, the update goes against it."
)
NO_SHARES = (
    "No shares were recorded: the runs were not monitored, or their methods change the gradients "
    "themselves, so that the update is no weighted sum of them."
)
NORMS = (
    "How long the gradient of each objective is. Where norms differ by orders of magnitude, a "
    "plain sum follows the longest."
)
NO_NORMS = "No gradients were measured."


# --------------------------------------------------------------------------- curves


def _learning(study: Study, budget: Budget) -> list[Section]:
    found = []
    if any(track.curves.get("learning") for track in study.tracks):
        metric = "Validation, one panel an objective." + _line_words(study)
        section = _panels(study, budget, "learning", "learning", "Learning curves", metric, "")
        found.append(section)
    losses = _panels(
        study,
        budget,
        "loss",
        "losses",
        "Training losses",
        "The loss of each objective on the training data." + _line_words(study),
        "",
    )
    return [*found, losses] if losses.plots else found


def _line_words(study: Study) -> str:
    if max((len(study.of(method)) for method in study.methods), default=0) < 2:
        return ""
    return " Line: the mean over the runs of a method; band: from the lowest to the highest."


def _panels(
    study: Study,
    budget: Budget,
    quantity: Quantity,
    name: str,
    title: str,
    lead: str,
    empty: str,
) -> Section:
    """A section with one panel an objective, one line a method."""
    look = plots.looks(study)
    found = []
    thinned = broken = 0
    for place, objective in enumerate(study.objectives):
        runs = {
            method: series
            for method in study.methods
            if (series := [t.curves[quantity][objective] for t in study.of(method)
                           if objective in t.curves.get(quantity, {})
                           and len(t.curves[quantity][objective].x)])
        }  # fmt: skip
        if not runs:
            continue
        every = [one for series in runs.values() for one in series]
        thinned = max(thinned, *(len(one.x) for one in every))
        broken += sum(int((~np.isfinite(one.y)).sum()) for one in every)
        heading = objective
        if quantity == "learning":
            metric, goal = study.headline[objective]
            heading = f"{objective}: {metric} {plots.ARROWS[goal]}"
        found.append(
            plots.lines(
                f"{name}-{place}",
                heading,
                runs,
                look,
                x=study.clock[quantity],
                windows=budget.windows,
                logarithmic=quantity in ("loss", "norm")
                or (quantity == "learning" and study.headline[objective][1] == "min"),
                seen=SEEN[quantity](study, objective, runs),
            )
        )
    if plots.thins(thinned, budget.windows):
        lead += (
            f" Long curves show the mean in each of {budget.windows} windows of time, and a band "
            "from the lowest to the highest value in it: no extreme is left out."
        )
    if found and broken:
        lead += (
            f" {broken:,} of all values are no finite number, or the objective was not active: "
            "they are left out."
        )
    return Section(name, title, lead, found, empty)


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
    means = {method: plots.mean_over(series) for method, series in runs.items()}
    means = {method: mean for method, mean in means.items() if math.isfinite(mean)}
    if not means:
        return "No number is finite."
    if len(means) == 1:
        return f"On average {next(iter(means.values())):.3g}."
    high, low = max(means, key=lambda m: means[m]), min(means, key=lambda m: means[m])
    return f"On average highest: {high} ({means[high]:.3g}); lowest: {low} ({means[low]:.3g})."


SEEN: dict[Quantity, Callable[[Study, str, dict[str, list[Series]]], str]] = {
    "learning": _seen_best,
    "loss": _seen_fall,
    "norm": _seen_mean,
    "weight": _seen_mean,
    "share": _seen_mean,
}


# --------------------------------------------------------------------------- trade-offs


def _tradeoff(study: Study) -> list[Section]:
    methods = [m for m in study.methods if any(track.ends for track in study.of(m))]
    if len(methods) < 2 or len(study.objectives) < 2:
        return []
    look = plots.looks(study)
    if len(study.objectives) == 2:
        lead = (
            "The end of training. Better is up and right. Large: mean over runs; small: each run."
        )
        found = [plots.scatter("tradeoff", "One objective against the other", study, look)]
    else:
        lead = (
            "The end of training. Each axis runs from the worst run (bottom) to the best (top). "
            "Lines that cross: one objective was bought with another. Small dots: each run."
        )
        found = [plots.parallel("tradeoff", "Objectives side by side", study, look)]
    try:
        found.append(_volumes(study, methods, look))
    except TooManyPointsError as error:
        lead += f" The hypervolume is not shown: {error}"
    return [Section("tradeoff-section", "Trade-off between objectives", lead, found)]


def _volumes(study: Study, methods: list[str], look: plots.Strokes) -> Plot:
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
    return plots.volumes("hypervolume", "Hypervolume", values, look, seen=seen)


# --------------------------------------------------------------------------- conflict


def _conflict(study: Study, budget: Budget) -> Section:
    found = []
    left_out = 0
    for place, method in enumerate(study.methods):
        rows: dict[str, list[Series]] = {}
        for track in study.of(method):
            for (one, other), series in track.pairs.items():
                rows.setdefault(f"{one} – {other}", []).append(series)
        means = {row: plots.mean_over(series) for row, series in rows.items()}
        rows = {row: series for row, series in rows.items() if math.isfinite(means[row])}
        if not rows:
            continue
        kept = _highest({row: -means[row] for row in rows})
        left_out = max(left_out, len(rows) - len(kept))
        found.append(
            plots.over_time(
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
    return (
        f"{word}: {lowest}, cosine {means[lowest]:.2f} on average, below 0 in {below:.0f} % of it."
    )


def _parts(study: Study, budget: Budget) -> list[Section]:
    by_part: dict[str, dict[str, list[Series]]] = {}  # {method: {layer: of its runs}}
    for method in study.methods:
        for track in study.of(method):
            for part, series in track.parts.items():
                by_part.setdefault(method, {}).setdefault(part, []).append(series)
    means = {
        method: {
            part: mean
            for part, series in rows.items()
            if math.isfinite(mean := plots.mean_over(series))
        }
        for method, rows in by_part.items()
    }
    means = {method: mean for method, mean in means.items() if mean}
    if not means:
        return []
    found = [
        plots.over_time(
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
        found.insert(0, plots.by_method("layers", "All methods, mean over time", rows))
    lead = (
        "How opposed the gradients are in each layer or network that several objectives train, "
        f"{study.measured}: the mean over pairs of objectives of max(0, -cosine). 0: never "
        "opposed. Where few of them hold the conflict, it may be enough to settle it there. "
        + _windows_words(study, budget, "parts")
    )
    if max(map(len, means.values())) > ROWS:
        lead += f" Only the {ROWS} with the most conflict are shown."
    return [Section("layers-section", "Conflict by layer", lead, plots.on_one_scale(found))]


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


# --------------------------------------------------------------------------- numbers


def _last(series: Series) -> float:
    known = series.y[np.isfinite(series.y)]
    return float(known[-1]) if len(known) else math.nan


def _first(series: Series) -> float:
    known = series.y[np.isfinite(series.y)]
    return float(known[0]) if len(known) else math.nan


def _mean(numbers: list[float]) -> float:
    known = [number for number in numbers if math.isfinite(number)]
    return sum(known) / len(known) if known else math.nan
