"""What monitored trainings tell: one, or several."""

import json
import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from polytape.diagnostics.monitor_advice import advice_of
from polytape.diagnostics.monitor_records import Figures, MonitorRun
from polytape.reports.html.parts import plain, settings_of
from polytape.reports.html.sampling import Series, mean_of
from polytape.reports.html.study import Pair, Quantity, Study, Track


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
        advice=[(name, each) for name, run in monitors.items() for each in advice_of(run)],
        notes=notes,
    )


def _of_training(label: str, name: str, run: MonitorRun) -> Track:
    curves = _curves(run)
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


def _curves(run: MonitorRun) -> dict[Quantity, dict[str, Series]]:
    """Losses, norms, weights and shares over the steps, by objective; none that was never told."""
    steps = [record.step for record in run.steps]
    told: dict[Quantity, list[dict[str, float]]] = {
        "loss": [record.losses for record in run.steps],
        "norm": [record.norms for record in run.steps],
        "weight": [record.weights for record in run.steps],
        "share": [record.share for record in run.steps],
    }
    found = {quantity: _by_objective(run, steps, records) for quantity, records in told.items()}
    for network in run.header.networks:
        known = [record for record in run.steps if network in record.networks]
        steps = [record.step for record in known]
        inside: dict[Quantity, list[dict[str, float]]] = {
            "weight": [record.networks[network].weights for record in known],
            "share": [record.networks[network].share for record in known],
        }
        for quantity, records in inside.items():
            if not any(told[quantity]):
                for name, series in _by_objective(run, steps, records).items():
                    found[quantity][f"{name} in {network}"] = series
    return {quantity: curves for quantity, curves in found.items() if curves}


def _by_objective(
    run: MonitorRun, steps: Sequence[int], records: Sequence[dict[str, float]]
) -> dict[str, Series]:
    found = {}
    for objective in run.header.objectives:
        having = np.array([objective in record for record in records], bool)
        if having.any():
            y = np.array([record[objective] for record in records if objective in record])
            found[objective] = _once(np.array(steps, float)[having], y)
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


def _labels(monitors: dict[str, MonitorRun]) -> dict[str, str]:
    """{run: what the legend calls its method}: with settings only where these tell two apart."""
    methods = {name: _method(run.header.method) for name, run in monitors.items()}
    settings = {name: _flat(run.header.method) for name, run in monitors.items()}
    found = {}
    for name, method in methods.items():
        alike = [settings[other] for other in methods if methods[other] == method]
        known = dict.fromkeys(key for one in alike for key in one)
        telling = [key for key in known if len({one.get(key) for one in alike}) > 1]
        said = ", ".join(f"{key}={settings[name].get(key)}" for key in telling)
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
    return {k: plain(value) for k, value in settings_of(described).items() if k != "name"}


def _optimizer(described: dict[str, Any]) -> str:
    """An optimizer with its settings, or those of several networks."""
    if not isinstance(described.get("name"), str):
        return "; ".join(f"{network}: {_optimizer(one)}" for network, one in described.items())
    # What is off or left out by default says nothing.
    settings = {
        k: value for k, value in settings_of(described).items() if value not in (None, False)
    }
    return plain({"name": described["name"], "settings": settings})


def _settings(monitors: dict[str, MonitorRun]) -> list[tuple[str, dict[str, Any]]]:
    """Of each training, those that are alike once."""
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for name, run in monitors.items():
        header = run.header
        said = {
            "method": _method(header.method),
            **_flat(header.method),
            "optimizer": _optimizer(header.optimizer),
            "monitored": "every step" if header.every == 1 else f"one step in {header.every}",
        }
        if len(header.phases) > 1:
            said["phases"] = json.dumps(header.phases)
        found.setdefault(json.dumps(said), ([], said))[0].append(name)
    return [(", ".join(names), said) for names, said in found.values()]
