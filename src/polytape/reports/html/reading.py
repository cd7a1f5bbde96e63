"""From a folder to what is told of it.

Three kinds of folder tell something: of a comparison (`records.json`), of a monitored training
(`monitor.jsonl`), and one that holds several of the latter.
"""

import dataclasses
import json
from pathlib import Path

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


def _explanations(folder: Path) -> list[Explanation]:
    """Every explanation.txt and explanation.json in a folder and in those inside it."""
    found = []
    for path in sorted(folder.rglob("explanation.*")):
        name = path.parent.relative_to(folder).as_posix()
        name = "" if name == "." else name
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".txt":
            found.append(Explanation(name, text.rstrip()))
        elif path.suffix == ".json":
            found.append(_from_json(path, name, text))
    return found


def _from_json(path: Path, name: str, text: str) -> Explanation:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}. Mend it, or move it away.") from error
    findings = content.get("findings", []) if isinstance(content, dict) else content
    table = [
        {key: "" if value is None else str(value) for key, value in finding.items()}
        for finding in findings
        if isinstance(finding, dict)
    ]
    told = content.get("text", "") if isinstance(content, dict) else ""
    return Explanation(name, str(told), table)
