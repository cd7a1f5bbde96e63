"""From a folder to what is told of it.

Three kinds of folder tell something: of a comparison (`records.json`), of a monitored training
(`monitor.jsonl`), and one that holds several of the latter.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from polytape.diagnostics.monitor_records import FILE, MonitorRun
from polytape.diagnostics.records import Comparison
from polytape.reports.html.comparisons import of_comparison
from polytape.reports.html.monitors import of_monitors
from polytape.reports.html.study import Explanation, Study

RECORDS = "records.json"


def read(folder: Path, comparison: Comparison | None = None) -> Study:
    """What a folder holds.

    comparison  that it is of, where this is known; else it is read

    Errors: ValueError if it holds nothing that can be told of.
    """
    explanations = _explanations(folder)
    if comparison is None and (folder / RECORDS).is_file():
        comparison = Comparison.load(folder / RECORDS)
    if comparison is not None:
        found = of_comparison(comparison)
        return dataclasses.replace(found, explanations=explanations)
    monitors = monitors_in(folder)
    if not monitors:
        raise ValueError(
            f"There is nothing to report in {folder}: neither a {RECORDS} of `polytape compare` "
            f"nor a {FILE} of pt.callbacks.GradientMonitor, also not in its folders."
            + ("" if folder.is_dir() else " It is no folder.")
        )
    found = of_monitors(folder.absolute().name, monitors)
    return dataclasses.replace(found, explanations=explanations)


def monitors_in(folder: Path) -> dict[str, MonitorRun]:
    """{name: record} of every monitored training in a folder and in those inside it."""
    found = {}
    for file in sorted(folder.rglob(FILE)):
        name = file.parent.relative_to(folder).as_posix()
        found[folder.absolute().name if name == "." else name] = MonitorRun.load(file)
    return found


# --------------------------------------------------------------------------- explanations


def _explanations(folder: Path) -> list[Explanation]:
    """Every explanation.txt and explanation.json in a folder and in those inside it."""
    found = []
    for path in sorted(folder.rglob("explanation.*")):
        place = path.parent.relative_to(folder).as_posix()
        name = "" if place == "." else place
        if path.suffix == ".txt":
            found.append(Explanation(name, path.read_text("utf-8", errors="replace").rstrip()))
        elif path.suffix == ".json":
            found.append(_from_json(path, name))
    return found


def _from_json(path: Path, name: str) -> Explanation:
    """What `Explanation.save` wrote.

    Errors: ValueError if the file is something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        findings = [_finding(finding) for finding in content["findings"]]
        head = ["objective", "loss", *content["networks"]]
        rows = [
            [
                objective,
                _number(content["losses"].get(objective), "{:.3g}"),
                *(_cell(content["cells"][objective][network]) for network in content["networks"]),
            ]
            for objective in content["objectives"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no explanation: {type(error).__name__}: {error}. Expected what "
            "pt.explain(model, x, y).save(path) writes. Move it away, or write it again."
        ) from error
    return Explanation(
        name,
        cells=[head, *rows],
        findings=findings,
        verdict="" if findings else "Nothing is wrong: every gradient is where it should be.",
    )


def _finding(finding: dict[str, Any]) -> tuple[str, str]:
    """As it is printed: who and what; the sentence, where, and what to do."""
    who = " x ".join(filter(None, [finding["objective"], finding["network"]]))
    told = ", ".join(filter(None, [finding["text"], finding["where"]])) + "."
    return f"{who}: {finding['kind']}" if who else finding["kind"], f"{told} {finding['remedy']}"


def _cell(cell: dict[str, Any]) -> str:
    if not cell["reached"]:
        return "no path"
    if not cell["routed"]:
        return "not on its route"
    parts = [
        _number(cell["norm"], "norm {:.2e}") or "not finite",
        _number(cell["share"], "share {:.0%}"),
        _number(cell["cosine"], "cosine {:+.2f}"),
    ]
    return ", ".join(filter(None, parts))


def _number(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)
