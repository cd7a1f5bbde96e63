"""STCH: a smooth maximum of the losses."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import (
    Evidence,
    Integer,
    Method,
    Need,
    Preference,
    Range,
    Scale,
    State,
    Tensor,
    ops,
)
from polytape.linalg.ideal import Point, above
from polytape.linalg.preference import preferred
from polytape.linalg.reciprocal import logarithm, reciprocal
from polytape.linalg.simplex import softmax


class Nadir(NamedTuple):
    """What the warm-up measures."""

    mean: Tensor  # (..., T) float32, mean distance from the ideal point
    seen: Tensor  # (..., T) float32, number of steps in that mean
    tick: Tensor  # () int32, steps of warm-up taken


@dataclass(frozen=True)
class STCH(Method):
    """Smooth Tchebycheff scalarization: descent on a soft maximum of the losses.

    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024,
    section 3: the function mu log sum_t exp(a_t (L_t - z_t) / mu), hence w = a * softmax(a (L - z)
    / mu). One backward pass in all.

    Weights: positive. Plain: of no degree in the loss scale, for mu has a unit. With a warm-up:
    degree 0, multiplying all losses or one of them leaves the update as it is. Equal gradients of
    equal losses: their sum (over the loss, with a warm-up). Opposed gradients of equal length: the
    one of the larger loss wins. T = 1: one (plain). A zero row has the weight of its loss. Plain,
    losses may be zero or negative. With a warm-up a distance counts by its size, and one of exactly
    zero weighs zero; an objective never active while the nadir is measured counts as being at its
    nadir.

    Args:
        temperature: mu; towards zero the worst loss takes all (`Tchebycheff`), towards infinity the
            weights become those of the preference. Plain, it has the unit of a loss; the paper
            leaves it open, 1 (that of the published code for networks) is our default
        preference: a, one positive number per objective, rescaled to add up to the number of active
            objectives; None: one each. In the paper they add up to one: its mu is ours over T
        ideal: z, one number per objective in units of its (weighted) loss, at most its least
            possible value; None (default): zero
        warm_up: 0 (default): the form above. Otherwise the form of the published code for networks:
            in the first `warm_up` steps descent on sum_t a_t log(L_t - z_t); the mean of L_t - z_t
            over the last fifth of them is the nadir n_t; then descent on T mu log sum_t exp(a_t
            log((L_t - z_t) / n_t) / mu), so w_t has the further factor T / (L_t - z_t). The code
            warms up for 4 epochs and measures in the next: five epochs' worth of steps here
        scale: plain weights are those of the mean, w adds up to one if a is one; by default ("sum")
            they are multiplied by the number of active objectives. With a warm-up, "sum" is the
            published form, and "mean" divides it by that number

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.STCH(scale="mean"), losses=[1.0, 2.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.2689', '0.7311']
    """

    temperature: Annotated[float, Range(0.0, open="low high")] = 1.0
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    ideal: Annotated[tuple[float, ...] | None, Point()] = None
    warm_up: Annotated[int, Integer(0)] = 0
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Lin, Zhang, Yang, Liu, Wang and Zhang, ICML 2024"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})
    exempt: ClassVar[dict[str, str]] = {
        "scale": "the temperature has the unit of a loss",
        "zero row": "it sees losses only: one without a gradient takes its share",
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        if not self.warm_up:
            return ()
        zeros = np.zeros((*blocks, len(names)), "float32")
        return Nadir(zeros, zeros.copy(), np.zeros((), "int32"))

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        liking = preferred(evidence, self.preference)
        distance = above(evidence, self.ideal)
        if not self.warm_up:
            return liking * softmax(liking * distance / self.temperature, evidence.active), state
        size = ops.abs(distance)
        slope = reciprocal(size)
        ratio = ops.where(state.mean > 0, logarithm(size) - logarithm(state.mean), 0.0)
        share = softmax(liking * ratio / self.temperature, slope > 0)
        share = ops.where(state.tick < self.warm_up, 1.0 / evidence.count, share)
        return liking * share * slope, self._measured(size, evidence.active, state)

    def _measured(self, size: Tensor, active: Tensor, state: Nadir) -> Nadir:
        start = self.warm_up - -(-self.warm_up // 5)
        open_ = ops.logical_and(state.tick >= start, state.tick < self.warm_up)
        counted = ops.logical_and(open_, active)
        seen = state.seen + ops.cast(counted, "float32")
        moved = (size - state.mean) / ops.maximum(seen, 1.0)
        tick = ops.minimum(state.tick + 1, self.warm_up)
        return Nadir(ops.where(counted, state.mean + moved, state.mean), seen, tick)
