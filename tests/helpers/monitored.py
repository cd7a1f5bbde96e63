"""Monitored trainings that nobody made."""

import math

import numpy as np

from polytape.diagnostics.monitor_records import (
    EpochRecord,
    Figures,
    Header,
    MonitorRun,
    MonitorWriter,
    StepRecord,
)

METHOD = {"name": "UPGrad", "settings": {"regularization": 0.0}}


def monitored(
    steps: int = 40,
    objectives: tuple[str, ...] = ("left", "right", "image"),
    networks: tuple[str, ...] = ("encoder", "decoder"),
    *,
    method: dict = METHOD,
    every: int = 1,
    seed: int = 0,
    spike: int | None = None,
    validated: bool = True,
) -> MonitorRun:
    """Four epochs, in which losses fall; `spike` is a step whose losses are a million."""
    random = np.random.default_rng(seed)
    count = len(objectives)
    places = range(0, steps, every)
    losses = (
        random.uniform(0.9, 1.1, (len(places), count)) * np.linspace(2, 1, len(places))[:, None]
    )
    rows = random.normal(size=(len(places), count, 2 * count))
    gramians = np.einsum("nik,njk->nij", rows, rows).round(4).tolist()
    found = []
    for index, step in enumerate(places):
        gramian = gramians[index]
        norms = dict(zip(objectives, (math.sqrt(gramian[t][t]) for t in range(count)), strict=True))
        values = losses[index].tolist() if step != spike else [1e6] * count
        part = Figures(norms, gramian)
        found.append(
            StepRecord(
                norms,
                gramian,
                dict.fromkeys(objectives, 1.0 + 0.1 * seed),
                dict.fromkeys(objectives, 1 / count),
                step=step,
                epoch=4 * index // len(places),
                seconds=0.1 * step,
                losses=dict(zip(objectives, values, strict=True)),
                networks=dict.fromkeys(networks, part),
            )
        )
    header = Header(
        objectives,
        networks,
        method,
        {"name": "Adam", "settings": {"learning_rate": 0.001}},
        every,
        {"polytape": "0.1.0", "keras": "3"},
        ({"objectives": list(objectives), "steps": 1},),
    )
    prefix = "val_" if validated else ""
    epochs = [
        EpochRecord(e, {f"{prefix}{o}_loss": 1 / (e + 1 + seed) for o in objectives})
        for e in range(4)
    ]
    return MonitorRun(header, found, epochs, [header])


def write(run: MonitorRun, folder) -> None:
    """As a monitor would have written it."""
    writer = MonitorWriter(folder)
    writer.write([run.header, *run.steps, *run.epochs])
    writer.close()
