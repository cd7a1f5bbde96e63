"""What an objective came to in one evaluation, and whether it is active there."""

import functools
from dataclasses import dataclass

import numpy as np
from keras import ops

from polytape.contract import Tensor, received
from polytape.training.objectives.labels import Labels
from polytape.training.objectives.losses import Parts
from polytape.training.objectives.objective import Objective, Step


@dataclass(frozen=True)
class ObjectiveValue:
    """An objective in one evaluation.

    parts    its loss, and those of halves and samples that a method asked for
    labels   those that it found; None if it is no loss with labels
    present  () bool: whether it is active; None: in every step
    """

    parts: Parts
    labels: Labels | None
    present: Tensor | None

    def kept(self, number: Tensor) -> Tensor:
        """A number that belongs to it; zero where it is not active."""
        return number if self.present is None else ops.where(self.present, number, 0.0)


def activity(objective: Objective, step: Step, labels: Labels | None) -> Tensor | None:
    """Whether an objective is active in a step, () bool; None if it is in every step.

    labels  those that it found; None if it is no loss with labels

    Raises ValueError if its `when` answers with more than one boolean.
    """
    asked = []
    if objective.every > 1 and step.training:
        asked.append(ops.equal(ops.mod(step.count, objective.every), 0))
    if objective.when is not None:
        answer = objective.when(step)
        if not ops.is_tensor(answer) and not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                f"Objective {objective.name!r}: `when` answers with one boolean, as in "
                f"lambda step: step.count < 1000. {received(answer)}"
            )
        due = ops.cast(answer, "bool")
        if len(due.shape):
            raise ValueError(
                f"Objective {objective.name!r}: `when` decides for the whole batch, with one "
                f"boolean. Received shape: {tuple(due.shape)}."
            )
        asked.append(due)
    if labels is not None:
        asked.append(labels.present)
    return functools.reduce(ops.logical_and, asked) if asked else None
