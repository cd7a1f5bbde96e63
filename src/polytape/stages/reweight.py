"""Named weights: constant, scheduled, or changed while training runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from polytape.contract import (
    Evidence,
    Method,
    Need,
    State,
    Tensor,
    did_you_mean,
    is_number,
    ops,
    received,
)


@dataclass(frozen=True)
class Reweight(Method):
    """Objectives multiplied by weights of their own; unnamed ones keep weight one.

    The numbers are state, not constants: `model.reweight({"a": 0.5})`, from a callback say, takes
    effect at the next step on every backend, and they are saved with the model. Leading stages of
    this kind weigh the loss itself, so private variables are weighted too, and one backward pass
    is enough.

    Degree 1. Weights may be negative (a negative weight ascends).

    Args:
        weights: {objective: number or `keras.optimizers.schedules.LearningRateSchedule`}; a
            schedule is evaluated at the optimizer's step count

    Example:
        >>> import polytape as pt
        >>> evidence_names = ("a", "b")
        >>> weights, _ = pt.weigh(pt.Reweight({"b": 0.1}), losses=[1.0, 1.0], names=evidence_names)
        >>> [round(float(w), 3) for w in weights]
        [1.0, 0.1]
    """

    weights: Mapping[str, Any] = field(default_factory=dict)

    needs: ClassVar[Need] = "losses"
    constant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping):
            raise TypeError(
                'Reweight takes the weights by name, pt.Reweight({"image": 0.1}). '
                f"{received(self.weights)}"
            )
        for name, weight in self.weights.items():
            if not isinstance(name, str):
                raise TypeError(f"Reweight names objectives, which are texts. {received(name)}")
            number = is_number(weight) and np.isfinite(weight)
            if not number and not isinstance(weight, LearningRateSchedule):
                raise ValueError(
                    f"Reweight({{{name!r}: ...}}): a weight must be a finite number or a "
                    f"LearningRateSchedule. {received(weight)}"
                )

    @property
    def counts(self) -> bool:
        return any(isinstance(weight, LearningRateSchedule) for weight in self.weights.values())

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        del blocks
        check_names(self.weights, names)
        numbers = {n: w for n, w in self.weights.items() if not isinstance(w, LearningRateSchedule)}
        return {"reweight": np.array([numbers.get(n, 1.0) for n in names], "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        check_names(self.weights, evidence.names)
        numbers = ops.convert_to_tensor(state["reweight"])
        given = [self.weights.get(name) for name in evidence.names]
        schedules = [w if isinstance(w, LearningRateSchedule) else None for w in given]
        if not any(schedules):
            return numbers, state
        rates = [ops.cast(w(evidence.step) if w else 0.0, "float32") for w in schedules]
        scheduled = ops.convert_to_tensor([w is not None for w in schedules])
        return ops.where(scheduled, ops.stack(rates), numbers), state


def check_names(named: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise if a weight is given for an objective that does not exist."""
    if not isinstance(named, Mapping):
        raise TypeError(f'Weights are given by name, as in {{"a": 0.5}}. {received(named)}')
    for name in named:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(
                f"A weight is given for {name!r}, which is not an objective.{hint} "
                f"Objectives: {', '.join(map(repr, names))}."
            )
