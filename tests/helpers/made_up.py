"""A comparison that nobody trained."""

import math

from polytape.diagnostics.records import Comparison, Run

OPPOSED = [[1.0, -0.5, 0.2], [-0.5, 1.0, 0.1], [0.2, 0.1, 1.0]]


def made_up(
    objectives: tuple[str, ...] = ("left", "right", "image"),
    methods: tuple[str, ...] = ("MGDA", "Sum", "UPGrad"),
    seeds: int = 2,
    epochs: int = 4,
) -> Comparison:
    """ "image" has an error to be minimised, the others an accuracy; the last method is best."""
    headline = {
        name: ("mse", "min") if name == "image" else ("accuracy", "max") for name in objectives
    }
    comparison = Comparison(
        "made up", "Nobody trained this.", objectives, headline, methods, tuple(range(seeds)),
        epochs, 32, 0.001, {"keras": "3"},
    )  # fmt: skip
    for rank, method in enumerate(methods):
        for seed in range(seeds):
            quality = 0.8 + 0.05 * rank + 0.01 * seed
            history = {
                comparison.headline_key(name): [
                    (1 - quality if goal == "min" else quality) * (epoch + 1) / epochs
                    for epoch in range(epochs)
                ]
                for name, (_, goal) in headline.items()
            }
            cosines = [
                [OPPOSED[i][j] if i < 3 > j else float(i == j) for j in range(len(objectives))]
                for i in range(len(objectives))
            ]
            times = [9.0] + [0.01 * (rank + 1)] * (epochs - 1)
            comparison.runs.append(
                Run(method, seed, history=history, cosines=[cosines], step_seconds=times)
            )
    return comparison


def spoil(comparison: Comparison, index: int, status: str, reason: str) -> None:
    run = comparison.runs[index]
    history = {key: [*values[:-1], math.nan] for key, values in run.history.items()}
    comparison.runs[index] = Run(run.method, run.seed, status, reason, history)
