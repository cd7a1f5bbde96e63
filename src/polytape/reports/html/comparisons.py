"""What a comparison tells."""

from itertools import combinations
from typing import Any

import numpy as np

from polytape.diagnostics.records import Comparison, Run
from polytape.reports.html.parts import plain, settings_of
from polytape.reports.html.sampling import Series
from polytape.reports.html.study import Quantity, Study, Track
from polytape.reports.summary import baseline
from polytape.reports.tables import notes


def of_comparison(found: Comparison) -> Study:
    """What a comparison tells."""
    tracks = [_of_run(found, run) for run in found.runs if run.status == "finished"]
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
        own = settings_of(found.settings.get(name, {}))
        settings.append((name, {key: plain(value) for key, value in own.items()}))
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


def _of_run(found: Comparison, run: Run) -> Track:
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
    recorded = np.array(run.recorded, float)
    told: dict[Quantity, dict[str, list[float]]] = {"weight": run.weights, "share": run.shares}
    for quantity, numbers in told.items():
        curves[quantity] = {
            name: Series(recorded, np.array(values, float)) for name, values in numbers.items()
        }
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
