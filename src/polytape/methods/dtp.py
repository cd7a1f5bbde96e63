"""DTP: objectives far from their goal, by a metric of their own, weigh more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Need, Range, State, Tensor, ops

FLOOR = 1e-3


@dataclass(frozen=True)
class DTP(Method):
    """Dynamic task prioritisation: a focal weight by a performance indicator of each objective.

    Guo, Haque, Huang, Yeung and Fei-Fei, "Dynamic Task Prioritization for Multitask Learning", ECCV
    2018. One backward pass in all. With k_i in (0, 1] a moving average of a metric of objective i
    (accuracy, say; the higher, the better),

        w_i = -(1 - k_i)^gamma log(k_i).

    Between epochs the weights are constant. `fit` reads the metrics by itself; in a loop of your
    own call `combiner.on_epoch_metrics({"val_a_accuracy": 0.9})`.

    Weights: never negative, and as large as log(1000) at worst: metrics below 0.001, negative ones
    included, count as 0.001. One before the first metric; zero at a metric of one. They do not
    depend on losses or gradients: degree 1, and no weighting for equal or opposed gradients, zero
    rows or T = 1 in particular. A metric that is missing from the logs or not finite changes
    nothing; one above 1 (a percentage, an error) raises a `ValueError`.

    Args:
        metrics: {objective: name of a log}, e.g. {"left": "val_left_accuracy"}. The metric is read
            at the end of each epoch. An objective without one weighs one
        gamma: focus on difficult objectives, the higher the more; default 1, ours
        decay: share of the past in the moving average, one minus the paper's discount factor;
            default 0.5, ours

    Example:
        >>> import keras, polytape as pt
        >>> method = pt.DTP({"a": "val_a_accuracy"})
        >>> _, state = pt.weigh(method, losses=[1.0, 1.0], names=("a", "b"))
        >>> kpi = keras.ops.convert_to_numpy(state["kpi"])
        >>> state = {"kpi": method.on_epoch_metrics(kpi, ("a", "b"), {"val_a_accuracy": 0.5})}
        >>> weights, _ = pt.weigh(method, losses=[1.0, 1.0], state=state, names=("a", "b"))
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.3466', '1.0000']
    """

    metrics: Mapping[str, str] = field(default_factory=dict)
    gamma: Annotated[float, Range(0.0, open="high")] = 1.0
    decay: Annotated[float, Range(0.0, 1.0, open="high")] = 0.5

    needs: ClassVar[Need] = "losses"
    evidence: ClassVar[tuple[str, ...]] = ("epoch_metrics",)
    reference: ClassVar[str] = "Guo, Haque, Huang, Yeung and Fei-Fei, ECCV 2018"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        for name in self.metrics:
            if name not in names:
                raise ValueError(
                    f"DTP(metrics={dict(self.metrics)!r}): {name!r} is not an objective. "
                    f"Objectives: {', '.join(map(repr, names))}."
                )
        return {"kpi": np.zeros((*blocks, len(names)), "float32")}  # zero: no metric yet

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        known = state["kpi"] > 0
        kpi = ops.where(known, state["kpi"], 1.0)
        focal = ops.power(1.0 - kpi, self.gamma) * ops.log(1.0 / kpi)
        return ops.where(known, focal, ops.ones_like(evidence.losses)), state

    def on_epoch_metrics(
        self, kpi: np.ndarray, names: tuple[str, ...], logs: Mapping[str, float]
    ) -> np.ndarray:
        """The moving averages (..., T) after an epoch that logged these metrics.

        Args:
            kpi: (T,) float32, the leaf of the state
            names: the T objectives
            logs: of the epoch, {name: number}

        Returns:
            (T,) float32, the next value of the leaf.
        """
        kpi = np.array(kpi, "float32")
        for index, name in enumerate(names):
            metric = logs.get(self.metrics.get(name, ""), np.nan)
            if not np.isfinite(metric):
                continue
            if metric > 1.0 + 1e-6:
                raise ValueError(
                    f"DTP reads {self.metrics[name]!r} as the performance of {name!r}, a number "
                    f"up to 1, the higher the better. Received: {metric!r}. Log a share such as an "
                    "accuracy instead of a percentage or an error."
                )
            fresh = np.clip(np.float32(metric), FLOOR, 1.0)
            last = np.where(kpi[..., index] > 0, kpi[..., index], fresh)
            kpi[..., index] = self.decay * last + (1.0 - self.decay) * fresh
        return kpi
