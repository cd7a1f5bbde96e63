"""A report as one HTML file: it holds its figures and the library that draws them, and opens from
disk without a network."""

import dataclasses
import os
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from polytape.diagnostics.monitor_records import MonitorRun
from polytape.reports import tables
from polytape.reports.html.conflict import conflict, layers
from polytape.reports.html.curves import gradients, learning
from polytape.reports.html.parts import Budget, Section, looks
from polytape.reports.html.study import Study
from polytape.reports.html.tradeoff import tradeoff

FILE = "report.html"
HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[Cell]]
    caption: str


def write(study: Study, path: str | os.PathLike[str], version: str) -> None:
    """Write the page, never half of it.

    version  of polytape, which the page names
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(page(study, version), encoding="utf-8")
    os.replace(unfinished, path)


def page(study: Study, version: str) -> str:
    """The text of the file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        study=study,
        sections=sections(study),
        table=_table(study),
        looks=looks(study),
        version=version,
        css=(HERE / "page.css").read_text("utf-8"),
        js=(HERE / "page.js").read_text("utf-8"),
        plotly=get_plotlyjs(),
    )


def sections(study: Study) -> list[Section]:
    """All that has figures, in the order of the page."""
    budget = Budget.of(study)
    return [
        *learning(study, budget),
        *tradeoff(study),
        conflict(study, budget),
        *layers(study, budget),
        *gradients(study, budget),
    ]


def _table(study: Study) -> Table:
    if study.comparison is not None:
        marks = ("\0", "\0")  # no name has one
        rows = [
            [Cell(text.strip("\0"), best=text.startswith("\0")) for text in cells]
            for _, cells in tables.texts(study.comparison, marks)
        ]
        return Table(tables.headers(study.comparison), rows, tables.caption(study.comparison))
    return _runs(study)


def _runs(study: Study) -> Table:
    head = ["run", "method", "steps", "epochs", "time", *study.objectives]
    rows = []
    for track in study.tracks:
        run = study.monitors[track.name]
        steps = [record.step for record in run.steps]
        cells = [
            track.name,
            track.method,
            f"{max(steps) + 1:,}" if steps else "0",
            f"{len(run.epochs):,}",
            _seconds(run),
        ]
        cells += [f"{track.ends[o]:.4g}" if o in track.ends else "–" for o in study.objectives]
        rows.append([Cell(cell) for cell in cells])
    metric = next(iter(study.headline.values()))[0] if study.headline else "loss"
    caption = (
        f"Under each objective its {metric} after the last epoch that has ended. Steps and time: "
        "up to the last record."
    )
    return Table(head, rows, caption)


def _seconds(run: MonitorRun) -> str:
    seconds = run.steps[-1].seconds if run.steps else 0.0
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
