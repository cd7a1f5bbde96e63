"""Advice from the records of a monitored training."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from polytape.diagnostics.advice import Advice, Measured, advise
from polytape.diagnostics.monitor_records import Figures, MonitorRun, StepRecord


def advice_of(run: MonitorRun) -> list[Advice]:
    """What follows from the records of a training, phase by phase.

    Args:
        run: what a monitor wrote

    Returns:
        Advice, of each phase what concerns most first.
    """
    phases = sorted({record.phase for record in run.steps})
    return [each for phase in phases for each in advise(_measured(run, run.of_phase(phase)))]


def _measured(run: MonitorRun, records: Sequence[StepRecord]) -> Measured:
    names = records[0].objectives
    networks = dict.fromkeys(network for record in records for network in record.networks)
    places = {
        network: np.array([_cosines(names, record.networks.get(network)) for record in records])
        for network in networks
    }
    return Measured(
        objectives=names,
        method=str(run.header.method.get("name", "")),
        norms=np.array([_lengths(names, record) for record in records]),
        cosines=np.array([_cosines(names, record) for record in records]),
        shares=np.array([[record.share.get(n, math.nan) for n in names] for record in records]),
        losses=np.array([[record.losses.get(n, math.nan) for n in names] for record in records]),
        places=places,
        single_pass=_single_pass(run.header.method),
    )


def _lengths(names: Sequence[str], record: StepRecord) -> list[float]:
    """Norms over the shared variables; over all where nothing is shared."""
    if len(record.gramian) != len(names):
        return [record.norms.get(name, math.nan) for name in names]
    squares = (row[place] for place, row in enumerate(record.gramian))
    return [math.sqrt(square) if square >= 0 else math.nan for square in squares]


def _cosines(names: Sequence[str], figures: Figures | None) -> np.ndarray:
    found = np.full((len(names), len(names)), math.nan)
    for (one, other), cosine in (figures.pairs if figures is not None else {}).items():
        if one in names and other in names:
            pair = names.index(one), names.index(other)
            found[pair] = found[pair[::-1]] = cosine
    return found


def _single_pass(method: dict[str, Any]) -> bool:
    """Whether a method looks at no gradients; True where the file does not say."""
    return bool(method.get("needs", "losses") == "losses")
