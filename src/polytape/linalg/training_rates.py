"""Weights trained until objectives pull in proportion to how far behind they are."""

from typing import NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Evidence, Tensor
from polytape.linalg.adam import Trained, untrained
from polytape.linalg.simplex import softmax


class Balance(NamedTuple):
    """Logarithms of trained weights, and the losses that training began with; (..., T).

    start  loss in the first step in which the objective was active
    seen   bool: there was such a step
    """

    logs: Trained
    start: Tensor
    seen: Tensor

    def weights(self, evidence: Evidence) -> Tensor:
        """The weights, adding up to the number of active objectives."""
        return evidence.count * softmax(self.logs.value, evidence.active)


def unbalanced(shape: tuple[int, ...]) -> Balance:
    """Equal weights and no losses yet, as NumPy arrays."""
    return Balance(untrained(shape), np.zeros(shape, "float32"), np.zeros(shape, "bool"))


def balanced(
    balance: Balance, evidence: Evidence, pull: Tensor, alpha: float, rate: float
) -> Balance:
    """One step of Adam that lowers sum |pull - mean(pull) * r^alpha|, the second term held fixed.

    pull   (..., T)  weighted size of each objective, in proportion to its weight; objectives whose
                     pull is zero take no part
    r      (..., T)  inverse training rate, L_t over its first value, relative to the mean of those.
                     A loss that is not positive at the start counts as unchanged, one that becomes
                     negative as zero
    """
    start = ops.where(balance.seen, balance.start, evidence.losses)
    seen = ops.logical_or(balance.seen, evidence.active)
    alive = ops.logical_and(evidence.active, pull > 0)
    known = ops.logical_and(alive, start > 0)
    left = ops.maximum(evidence.losses, 0.0) / ops.where(known, start, 1.0)
    left = ops.where(known, ops.minimum(left, 1e30), 1.0)
    average = _mean(left, alive)
    relative = left / ops.where(average > 0, average, 1.0)
    excess = pull - _mean(pull, alive) * relative**alpha
    # At the target the sign is that of rounding, and Adam would take it for a full step.
    settled = ops.abs(excess) <= 1e-6 * pull
    gradient = ops.where(settled, 0.0, pull * ops.sign(excess))
    logs = balance.logs.descended(gradient, rate, alive)
    # Only differences count; this keeps them exact over long runs.
    centred = logs.value - ops.max(logs.value, axis=-1, keepdims=True)
    return Balance(logs._replace(value=centred), start, seen)


def _mean(values: Tensor, taken: Tensor) -> Tensor:
    """Mean (..., 1) of the values (..., T) that are taken; zero if none is."""
    number = ops.sum(ops.cast(taken, "float32"), axis=-1, keepdims=True)
    return ops.sum(ops.where(taken, values, 0.0), axis=-1, keepdims=True) / ops.maximum(number, 1.0)
