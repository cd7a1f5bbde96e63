"""Logged metrics that enter the state of a method after each epoch."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from polytape.contract import Method
from polytape.evidence.base import Kind


class EpochMetrics(Kind):
    """The metrics that a method names in its field `metrics`, {objective: name of a log}.

    They reach the leaf "kpi" of its state, by `Method.on_epoch_metrics`.
    """

    name: ClassVar[str] = "epoch_metrics"

    def after_epoch(
        self, method: Method, kpi: np.ndarray, names: Sequence[str], logs: Mapping[str, float]
    ) -> np.ndarray:
        """The next "kpi" of a method. ValueError if it names a metric that was not logged."""
        wanted: Mapping[str, str] = getattr(method, "metrics")  # noqa: B009  (a method's own field)
        for objective, metric in wanted.items():
            if metric not in logs:
                raise ValueError(
                    f"{type(method).__name__} reads {metric!r} as the metric of {objective!r}, "
                    f"which this epoch did not log. Logged: {', '.join(map(repr, logs))}. "
                    "Compile with that metric and, for a name with val_, give validation data."
                )
        return method.on_epoch_metrics(kpi, tuple(names), logs)
