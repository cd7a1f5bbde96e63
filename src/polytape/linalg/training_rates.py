"""Weights trained until objectives pull in proportion to how far behind they are."""

from typing import NamedTuple

import numpy as np

from polytape.contract import Evidence, Tensor, ops
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


def unbalanced(shape: tuple[int, ...]) -> Balance:
    """Equal weights and no losses yet, as NumPy arrays."""
    return Balance(untrained(shape), np.zeros(shape, "float32"), np.zeros(shape, "bool"))


def balance(
    state: Balance, evidence: Evidence, size: Tensor, alpha: float, rate: float
) -> tuple[Tensor, Balance]:
    """The weights w (..., T), which add up to the number of active objectives, and the next state.

    size   (..., T)  what is to be balanced; objectives of size zero take no part
    alpha  how strongly objectives that are behind are favoured
    rate   of the step of Adam that lowers sum |p_t - mean(p) r_t^alpha|, p = w * size, the second
           term held fixed. r is the inverse training rate: a loss over its first value, relative to
           the mean of these. One that was not positive at first counts as unchanged, one that has
           become negative as zero

    Source: Chen et al. 2018 (GradNorm), eq. 2. The step is multiplied onto the weights, not added:
    log w moves by the step of Adam for the derivative with respect to w.
    """
    weights = evidence.count * softmax(state.logs.value, evidence.active)
    alive = ops.logical_and(evidence.active, size > 0)
    start = ops.where(state.seen, state.start, evidence.losses)
    known = ops.logical_and(alive, start > 0)
    left = ops.maximum(evidence.losses, 0.0) / ops.where(known, start, 1.0)
    left = ops.where(known, ops.minimum(left, 1e30), 1.0)
    average = _mean(left, alive)
    relative = left / ops.where(average > 0, average, 1.0)
    pull = weights * size
    excess = pull - _mean(pull, alive) * relative**alpha
    # At the target the sign is that of rounding, and Adam would take it for a full step.
    settled = ops.abs(excess) <= 1e-6 * pull
    gradient = ops.where(settled, 0.0, size * ops.sign(excess))
    logs = state.logs.descended(gradient, rate, alive)
    # Only differences count; this keeps them exact over long runs.
    centred = logs.value - ops.max(logs.value, axis=-1, keepdims=True)
    seen = ops.logical_or(state.seen, evidence.active)
    return weights, Balance(logs._replace(value=centred), start, seen)


def _mean(values: Tensor, taken: Tensor) -> Tensor:
    """Mean (..., 1) of the values (..., T) that are taken; zero if none is."""
    number = ops.sum(ops.cast(taken, "float32"), axis=-1, keepdims=True)
    return ops.sum(ops.where(taken, values, 0.0), axis=-1, keepdims=True) / ops.maximum(number, 1.0)
