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
ACROSS = 2


def draw(found: Found, path: Path) -> None:
    """A mark is the median ratio to TorchJD, its line the middle half."""
    all_cases = cases(found)
    methods = list(dict.fromkeys(case.method for case in all_cases))
    nets = list(dict.fromkeys((case.net, case.tasks) for case in all_cases))
    down = -(-len(methods) // ACROSS)
    settings = {**RC, "svg.hashsalt": "polytape", "svg.fonttype": "path"}
    with matplotlib.rc_context(settings):
        height = down * (0.42 * len(nets) + 0.9) + 0.8
        across = min(ACROSS, len(methods))
        figure = Figure(figsize=(2.6 + 3.7 * across, height), layout="constrained")
        axes = figure.subplots(
            down, min(ACROSS, len(methods)), sharex=True, sharey=True, squeeze=False
        )
        for axis, method in zip(axes.flat, methods, strict=False):
            _panel(axis, found, [case for case in all_cases if case.method == method], nets, method)
        for axis in list(axes.flat)[len(methods) :]:
            axis.set_visible(False)
        handles, labels = _legend(axes.flat)
        figure.legend(handles, labels, loc="outside upper left", ncols=across + 1)
        figure.supxlabel("time of a step, in units of the fastest setting of TorchJD", fontsize=9.5)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def _panel(
    axis: Any, found: Found, drawn: Sequence[Case], nets: list[tuple[str, int]], method: str
) -> None:
    columns = {title: (peer, way) for title, peer, way in COLUMNS}
    for place, (title, (label, colour, mark)) in enumerate(SHOWN.items()):
        shift = 0.11 * (place - (len(SHOWN) - 1) / 2)
        for case in drawn:
            here = nets.index((case.net, case.tasks)) + shift
            for line in case.lines:
                figures = (
                    ratio(found, case, line) if (line.peer, line.way) == columns[title] else None
                )
                if figures is None:
                    continue
                axis.plot([figures.low, figures.high], [here, here], color=colour, linewidth=1.2)
                axis.plot(figures.middle, here, mark, color=colour, markersize=4.5, label=label)
    axis.axvline(1.0, color=BASELINE, linewidth=1.0)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(len(nets)), [f"{name}, T = {tasks}" for name, tasks in nets])
    axis.set_ylim(len(nets) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    for line in range(1, len(nets)):
        axis.axhline(line - 0.5, color="#E8E8E8", linewidth=0.7)
    axis.set_title(method)


def _legend(axes: Any) -> tuple[list[Any], list[str]]:
    """Each label once, in the order of SHOWN."""
    known: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    labels = [label for label, *_ in SHOWN.values() if label in known]
    return [known[label] for label in labels], labels
