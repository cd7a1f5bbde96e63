"""MConFIG: ConFIG on momenta, of which one is refreshed per step."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import (
    Evidence,
    Method,
    Need,
    Observed,
    Preference,
    Range,
    State,
    Tensor,
    ops,
)
from polytape.methods.conflict_free import ConFIG


@dataclass(frozen=True)
class MConFIG(Method):
    """Momentum ConFIG: the conflict-free direction of moments, at one backward pass per step.

    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025, Algorithm 1. In each step one objective r is differentiated, in turn:

        m_r <- beta m_r + (1 - beta) g_r,    v = ConFIG(m_1 / (1 - beta^n_1), ...),

    n_i how often i was refreshed. The paper then divides v, as Adam does, by the root of a second
    moment, that of the gradient of which v would be the bias-corrected moving average. It is

        u_t = (M_t - beta M_(t-1)) / (1 - beta),    M_t = (1 - beta^t) v_t,

    and that is the update returned here. `keras.optimizers.Adam(rate, beta_1=beta)` finds M_t as
    its first moment and averages u_t^2 as its second: exactly the published step, and the second
    moment is kept where it belongs. With another optimizer u is a gradient like any other, of more
    noise.

    The first step differentiates all objectives; in the published code nothing moves until each has
    had its turn. All variables count as shared, as published, whatever `private` says. In
    `pt.Model` every later step costs one backward pass and two arithmetic passes over one array of
    T times the trainable variables, which is kept and saved with the model. Where all objectives
    are functions of the step, which call the networks on inputs of their own as in physics-informed
    networks, and no layer keeps statistics or seeds, every later step makes the forward pass of the
    objective in turn only, too (not on JAX, where XLA makes that dearer); the logged losses are
    then means over the steps in which each was evaluated, and the logged total counts it T times.
    If the backward pass of any loss makes NaN, so does that one pass: the objective whose turn it
    is sits the step out, and the others go on. A `pt.Combiner` gets all gradients and reads the one
    whose turn it is.

    Weights belong to the moments; they may be negative. Degree 1 in the loss scale, without a
    `scale`: the first update is that of ConFIG, the sum of equal gradients. An inactive objective
    keeps its moment and is left out. A zero moment is left out. Exactly opposed moments: zero.
    T = 1: the gradient itself. rank < T: as in ConFIG.

    Args:
        beta: of the moments; 0.9, as in the paper; the same as Adam's
        preference: as in `pt.ConFIG`

    Example:
        >>> import polytape as pt
        >>> from polytape.testing import Trial
        >>> update = Trial(pt.MConFIG()).update(np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones(2))
        >>> [f"{float(x):.4f}" for x in update.direction]
        ['1.5000', '1.5000']
    """

    beta: Annotated[float, Range(0.0, 1.0, open="low high")] = 0.9
    preference: Annotated[tuple[float, ...] | None, Preference()] = None

    needs: ClassVar[Need] = "rows"
    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients", "round_robin")
    memory: ClassVar[tuple[str, ...] | None] = ("moment",)
    reference: ClassVar[str] = "Liu, Chu and Thuerey, ICLR 2025"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "impartial"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        shape = (*blocks, len(names))
        return {
            "refreshed": np.zeros(shape, "float32"),
            "last": np.zeros(shape, "float32"),
            "steps": np.zeros((*blocks, 1), "float32"),
        }

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        old = memory["moment"]
        fresh = evidence.turn[:, None]
        moment = ops.where(fresh, self.beta * old + (1.0 - self.beta) * rows, old)
        unbiased = moment * self._correction(self._refreshed(evidence, state))[..., None]
        # M of the step before, from the moments of the step before.
        before = ops.sum(state["last"][..., None] * old, axis=-2)
        return Observed(
            unbiased, {"moment": moment}, offset=-self.beta / (1.0 - self.beta) * before
        )

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        weights, _ = ConFIG(self.preference).weigh(evidence, ())
        refreshed = self._refreshed(evidence, state)
        steps = state["steps"] + 1.0
        weights = weights * self._filled(steps)
        last = weights * self._correction(refreshed)
        return weights / (1.0 - self.beta), {"refreshed": refreshed, "last": last, "steps": steps}

    def _refreshed(self, evidence: Evidence, state: State) -> Tensor:
        fresh = ops.logical_and(evidence.active, evidence.turn)
        return state["refreshed"] + ops.cast(fresh, "float32")

    def _correction(self, refreshed: Tensor) -> Tensor:
        """One over the share of a moment that is filled; zero where there is none."""
        filled = self._filled(refreshed)
        return ops.where(refreshed > 0, 1.0 / ops.where(refreshed > 0, filled, 1.0), 0.0)

    def _filled(self, steps: Tensor) -> Tensor:
        """1 - beta ** steps, also for a beta that float32 cannot tell from one."""
        return -ops.expm1(steps * math.log(self.beta))
