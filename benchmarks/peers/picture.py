"""docs/peers.svg: the ratios of a run, a panel for each method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.peers.page import COLUMNS
from benchmarks.peers.ratios import Case, cases, ratio
from benchmarks.peers.runner import Found
from polytape.reports.style import BASELINE, COLOURS, QUIET, RC

# What is drawn of each: one way, a colour and a mark.
SHOWN = {
    "JAX, step": ("polytape, JAX", COLOURS[0], "o"),
    "TensorFlow, step": ("polytape, TensorFlow", COLOURS[1], "s"),
    "PyTorch, step": ("polytape, PyTorch", COLOURS[2], "D"),
    "PyTorch, loop": ("polytape, PyTorch loop", COLOURS[3], "^"),
    "LibMTL-style": ("LibMTL-style loop", QUIET, "x"),
    "conflictfree": ("conflictfree", BASELINE, "+"),
}
TICKS = (0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


def draw(found: Found, path: Path) -> None:
    """A mark is the median ratio to TorchJD, its line the middle half."""
    known = cases(found)
    methods = list(dict.fromkeys(case.method for case in known))
    panels = [[case for case in known if case.method == method] for method in methods]
    settings = {**RC, "svg.hashsalt": "polytape", "svg.fonttype": "path"}
    with matplotlib.rc_context(settings):
        height = 0.42 * len(known) + 0.5 * len(panels) + 1.2
        figure = Figure(figsize=(7.6, height), layout="constrained")
        rows = [len(panel) + 0.5 for panel in panels]
        axes = figure.subplots(
            len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": rows}
        )
        for axis, panel in zip(axes.flat, panels, strict=True):
            _panel(axis, found, panel)
        handles, labels = _legend(axes.flat)
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        figure.supxlabel("time of a step, in units of the fastest setting of TorchJD", fontsize=9.5)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def _panel(axis: Any, found: Found, drawn: Sequence[Case]) -> None:
    """One method, a row for each net."""
    columns = {title: (peer, way) for title, peer, way in COLUMNS}
    for place, (title, (label, colour, mark)) in enumerate(SHOWN.items()):
        shift = 0.11 * (place - (len(SHOWN) - 1) / 2)
        for row, case in enumerate(drawn):
            for line in case.lines:
                wanted = (line.peer, line.way) == columns[title]
                figures = ratio(found, case, line) if wanted else None
                if figures is None:
                    continue
                ends, here = [figures.low, figures.high], row + shift
                axis.plot(ends, [here, here], color=colour, linewidth=1.2)
                axis.plot(figures.middle, here, mark, color=colour, markersize=4.5, label=label)
    axis.axvline(1.0, color=BASELINE, linewidth=1.0)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(len(drawn)), [f"{case.net}, T = {case.tasks}" for case in drawn])
    axis.set_ylim(len(drawn) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    for row in range(1, len(drawn)):
        axis.axhline(row - 0.5, color="#E8E8E8", linewidth=0.7)
    axis.set_title(drawn[0].method)


def _legend(axes: Any) -> tuple[list[Any], list[str]]:
    """Each label once, in the order of SHOWN."""
    known: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    labels = [label for label, *_ in SHOWN.values() if label in known]
    return [known[label] for label in labels], labels
