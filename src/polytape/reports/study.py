"""What a report is about, wherever it was recorded: runs, and what was measured in them over time.

Three kinds of folder tell it: of a comparison (`records.json`), of a monitored training
(`monitor.jsonl`), and one that holds several of the latter.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polytape.diagnostics.monitor_records import FILE, Figures, MonitorRun
from polytape.diagnostics.records import Comparison, Run
from polytape.reports.sampling import Series, mean_of
from polytape.reports.summary import baseline
from polytape.reports.tables import notes

RECORDS = "records.json"
Quantity = Literal["learning", "loss", "norm", "weight", "share"]
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Track:
    """One run: a method under one seed, or one monitored training.

    method  that it belongs to, as the legend calls it
    name    what tells it from the others of that method
    curves  {quantity: {objective: its numbers over time}}
    pairs   {(a, b): cosine of the gradients over time}
    parts   {layer or network: how opposed the gradients in it are, over time}
    ends    {objective: headline number at the end}; empty if there is none to compare
    """

    method: str
    name: str
    curves: dict[Quantity, dict[str, Series]]
    pairs: dict[Pair, Series]
    parts: dict[str, Series]
    ends: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `pt.explain` had to say: its text, and its findings one by one."""

    name: str
    text: str
    findings: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The names of what any finding has, in the order in which they appear."""
        return list(dict.fromkeys(key for finding in self.findings for key in finding))


@dataclasses.dataclass(frozen=True)
class Study:
    """What a report tells.

    headline      {objective: (metric, "max" or "min")} of "learning" and of `ends`
    clock         {quantity, "pairs" or "parts": "epoch" or "step"}
    measured      what the cosines and norms were measured on, in words
    settings      (what, its settings) in the order of the page
    environments  each once; one if all runs were made alike
    comparison    the record, if there is one
    monitors      {name of a run: its record}
    notes         of what is missing, torn or failed
    """

    title: str
    description: str
    objectives: tuple[str, ...]
    methods: tuple[str, ...]
    base: str
    headline: dict[str, tuple[str, str]]
    clock: dict[str, str]
    measured: str
    tracks: list[Track]
    settings: list[tuple[str, dict[str, Any]]]
    environments: list[dict[str, str]]
    comparison: Comparison | None = None
    monitors: dict[str, MonitorRun] = dataclasses.field(default_factory=dict)
    explanations: list[Explanation] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def of(self, method: str) -> list[Track]:
        """The runs of one method, in order."""
        return [track for track in self.tracks if track.method == method]


def read(folder: Path, comparison: Comparison | None = None) -> Study:
    """What a folder holds.

    comparison  that it is of, where this is known; else it is read

    Errors: ValueError if it holds nothing that can be told of.
    """
    explanations = _explanations(folder)
    if comparison is None and (folder / RECORDS).is_file():
        comparison = Comparison.load(folder / RECORDS)
    if comparison is not None:
        found = of_comparison(comparison, monitors_in(folder))
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


# --------------------------------------------------------------------------- comparisons


def run_folder(method: str, seed: int) -> str:
    """Where, in the folder of a comparison, a run is monitored."""
    return f"runs/{method}-{seed}"


def of_comparison(found: Comparison, monitors: dict[str, MonitorRun] | None = None) -> Study:
    """What a comparison tells, with the weights and shares of its monitored runs."""
    monitors = monitors or {}
    tracks = [
        _of_run(found, run, monitors.get(run_folder(run.method, run.seed)))
        for run in found.runs
        if run.status == "finished"
    ]
    clock = dict.fromkeys(("learning", "loss", "norm", "pairs", "parts"), "epoch")
    settings: list[tuple[str, dict[str, Any]]] = [
        (
            "Training",
            {
                "problem": found.problem,
                "seeds": len(found.seeds),
                "epochs": found.epochs,
                "batch size": found.batch_size,
                "optimizer": f"Adam, learning rate {found.learning_rate:g}",
            },
        )
    ]
    for name in found.methods:
        settings.append((name, found.settings.get(name, {}).get("config", {})))
    return Study(
        title=found.problem,
        description=found.description,
        objectives=found.objectives,
        methods=found.methods,
        base=baseline(found),
        headline=dict(found.headline),
        clock=clock | {"weight": "step", "share": "step"},
        measured="over the shared variables, on a fixed batch after each epoch",
        tracks=tracks,
        settings=settings,
        environments=[found.environment],
        comparison=found,
        notes=notes(found),
    )


def _of_run(found: Comparison, run: Run, monitor: MonitorRun | None) -> Track:
    epochs = len(run.history[found.headline_key(found.objectives[0])])
    x = np.arange(1.0, epochs + 1)
    cosines = np.array(run.cosines, float).reshape(-1, len(found.objectives), len(found.objectives))
    norms = np.array(run.norms, float).reshape(-1, len(found.objectives))
    probes = np.arange(1.0, len(cosines) + 1)
    curves: dict[Quantity, dict[str, Series]] = {"learning": {}, "loss": {}, "norm": {}}
    for place, name in enumerate(found.objectives):
        curves["learning"][name] = Series(x, np.array(run.history[found.headline_key(name)]))
        if f"{name}_loss" in run.history:
            curves["loss"][name] = Series(x, np.array(run.history[f"{name}_loss"]))
        curves["norm"][name] = Series(np.arange(1.0, len(norms) + 1), norms[:, place])
    if monitor is not None:
        told = _of_monitor(monitor)
        curves |= {q: told[q] for q in ("weight", "share") if q in told}
    return Track(
        method=run.method,
        name=f"seed {run.seed}",
        curves=curves,
        pairs={
            (found.objectives[i], found.objectives[j]): Series(probes, cosines[:, i, j])
            for i, j in combinations(range(len(found.objectives)), 2)
        },
        parts={
            layer: Series(np.arange(1.0, len(numbers) + 1), np.array(numbers, float))
            for layer, numbers in run.layers.items()
        },
        ends={name: run.history[found.headline_key(name)][-1] for name in found.objectives},
    )


# --------------------------------------------------------------------------- monitors


def of_monitors(title: str, monitors: dict[str, MonitorRun]) -> Study:
    """What monitored trainings tell: one, or several that are told apart by their methods."""
    labels = _labels(monitors)
    objectives = tuple(dict.fromkeys(o for run in monitors.values() for o in run.header.objectives))
    tracks = [_of_training(labels[name], name, run) for name, run in monitors.items()]
    methods = tuple(dict.fromkeys(labels.values()))
    environments: list[dict[str, str]] = []
    for run in monitors.values():
        if run.header.environment not in environments:
            environments.append(run.header.environment)
    notes = [
        f"{name}: the training was stopped in the middle of a line, which is left out."
        for name, run in monitors.items()
        if run.torn
    ]
    validated = all("learning" in track.curves for track in tracks)
    return Study(
        title=title,
        description=f"{len(tracks)} monitored training{'s' * (len(tracks) != 1)}.",
        objectives=objectives,
        methods=methods,
        base=next((name for name in methods if name.lower() == "sum"), methods[0]),
        headline=dict.fromkeys(
            objectives, ("validation loss" if validated else "training loss", "min")
        ),
        clock=dict.fromkeys(("loss", "norm", "weight", "share", "pairs", "parts"), "step")
        | {"learning": "epoch"},
        measured="in the monitored training steps",
        tracks=tracks,
        settings=_settings(monitors),
        environments=environments,
        monitors=monitors,
        notes=notes,
    )


def _of_training(label: str, name: str, run: MonitorRun) -> Track:
    curves = _of_monitor(run)
    ends = {}
    for prefix in ("val_", ""):
        keys = {o: f"{prefix}{o}_loss" for o in run.header.objectives}
        logs = run.epochs[-1].logs if run.epochs else {}
        if all(key in logs for key in keys.values()):
            ends = {o: logs[key] for o, key in keys.items()}
            ends = ends if all(map(math.isfinite, ends.values())) else {}
            learned = {
                o: Series(
                    np.array([epoch.epoch + 1.0 for epoch in run.epochs]),
                    np.array([epoch.logs.get(key, math.nan) for epoch in run.epochs]),
                )
                for o, key in keys.items()
            }
            if prefix:
                curves["learning"] = learned
            break
    pairs, parts = _conflicts(run)
    return Track(label, name, curves, pairs, parts, ends)


def _of_monitor(run: MonitorRun) -> dict[Quantity, dict[str, Series]]:
    """Losses, norms, weights and shares over the steps, by objective; none that was never told."""
    x = np.array([record.step for record in run.steps], float)
    told: dict[Quantity, list[dict[str, float]]] = {
        "loss": [record.losses for record in run.steps],
        "norm": [record.norms for record in run.steps],
        "weight": [record.weights for record in run.steps],
        "share": [record.share for record in run.steps],
    }
    found: dict[Quantity, dict[str, Series]] = {}
    for quantity, records in told.items():
        for objective in run.header.objectives:
            having = np.array([objective in record for record in records], bool)
            if having.any():
                y = np.array([record[objective] for record in records if objective in record])
                found.setdefault(quantity, {})[objective] = _once(x[having], y)
    return found


def _conflicts(run: MonitorRun) -> tuple[dict[Pair, Series], dict[str, Series]]:
    """Cosines by pair, and how opposed the gradients are in each network."""
    steps = [record.step for record in run.steps]
    pairs: dict[Pair, list[Series]] = {}
    for names, x, cosines in _cosines(steps, run.steps):
        for i, j in combinations(range(len(names)), 2):
            pairs.setdefault((names[i], names[j]), []).append(Series(x, cosines[:, i, j]))
    parts: dict[str, list[Series]] = {}
    for network in run.header.networks:
        known = [(record.step, record.networks[network]) for record in run.steps
                 if network in record.networks]  # fmt: skip
        for _, x, cosines in _cosines([s for s, _ in known], [figures for _, figures in known]):
            parts.setdefault(network, []).append(Series(x, opposed(cosines)))
    return {k: _joined(v) for k, v in pairs.items()}, {k: _joined(v) for k, v in parts.items()}


def _cosines(
    steps: Sequence[int], records: Sequence[Figures]
) -> Iterable[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    """(objectives, steps (n,), cosines (n, T, T)) for all records with the same objectives."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, record in enumerate(records):
        if len(record.gramian) > 1:
            groups.setdefault(record.objectives, []).append(place)
    for names, places in groups.items():
        gramians = np.array([records[place].gramian for place in places], float)
        squares = np.diagonal(gramians, axis1=1, axis2=2)
        lengths = np.sqrt(np.where(squares > 0, squares, np.nan))
        # A gradient that is zero has no angle; one of an inactive objective is not there at all.
        cosines = gramians / (lengths[:, :, None] * lengths[:, None, :])
        yield names, np.array([steps[place] for place in places], float), cosines


def opposed(cosines: np.ndarray) -> np.ndarray:
    """(n,) mean over the pairs that have an angle of max(0, -cosine), from cosines (n, T, T)."""
    pairs = np.triu_indices(cosines.shape[-1], 1)
    found = cosines[:, pairs[0], pairs[1]]
    return mean_of(np.where(np.isfinite(found), np.maximum(-found, 0.0), np.nan), axis=1)


def _joined(parts: list[Series]) -> Series:
    return _once(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


def _once(x: np.ndarray, y: np.ndarray) -> Series:
    """In order, each x once: of two phases that tell the same step, the later one counts."""
    places = np.unique(x[::-1], return_index=True)
    return Series(places[0], np.asarray(y, float)[::-1][places[1]])


# --------------------------------------------------------------------------- words


def _labels(monitors: dict[str, MonitorRun]) -> dict[str, str]:
    """{run: what the legend calls its method}: with settings only where these tell two apart."""
    plain = {name: _method(run.header.method) for name, run in monitors.items()}
    flat = {name: _flat(run.header.method) for name, run in monitors.items()}
    found = {}
    for name, method in plain.items():
        alike = [flat[other] for other in plain if plain[other] == method]
        keys = sorted(
            {k for one in alike for k in one if any(one.get(k) != o.get(k) for o in alike)}
        )
        said = ", ".join(f"{key}={flat[name].get(key)}" for key in keys)
        found[name] = f"{method} ({said})" if said else method
    return found


def _method(described: dict[str, Any]) -> str:
    """The name of a method, or of those of several networks."""
    if isinstance(described.get("name"), str):
        return str(described["name"])
    inner = {k: _method(v) for k, v in described.items() if isinstance(v, dict)}
    return ", ".join(f"{k}: {v}" for k, v in inner.items()) or "method"


def _flat(described: dict[str, Any]) -> dict[str, str]:
    """{setting: value} of a method, as text."""
    settings = described.get("settings", described)
    return {key: json.dumps(value) for key, value in settings.items() if key != "name"}


def _settings(monitors: dict[str, MonitorRun]) -> list[tuple[str, dict[str, Any]]]:
    """Of each training, those that are alike once."""
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for name, run in monitors.items():
        header = run.header
        said = {
            "method": _method(header.method),
            **_flat(header.method),
            "optimizer": json.dumps(header.optimizer),
            "monitored": "every step" if header.every == 1 else f"one step in {header.every}",
        }
        if len(header.phases) > 1:
            said["phases"] = json.dumps(header.phases)
        found.setdefault(json.dumps(said), ([], said))[0].append(name)
    return [(", ".join(names), said) for names, said in found.values()]


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
