"""PCD: the primary gradient, turned as little as the other objectives ask for."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import Evidence, Method, Range, State, Tensor, ops
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.nonneg import nonneg_qp
from polytape.linalg.solve import with_ridge


class Squares(NamedTuple):
    """Running means of squared gradient norms, (..., T) float32 each."""

    mean: Tensor  # without bias: every step since the first counts with its share
    seen: Tensor  # number of steps with the objective active


def _sum(matrix: Tensor, vector: Tensor) -> Tensor:
    # Not a matmul: accelerators may round its operands to fewer than 24 bits.
    return ops.sum(matrix * vector[..., None, :], axis=-1)


@dataclass(frozen=True)
class PCD(Method):
    """Priority-constrained descent: one objective leads, each other one is sure of its part.

    "Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical
    Multi-Objective Optimization", TMLR 2026, arXiv:2606.29521. With s_t the inverse root of a
    running mean of |g_t|^2 and g_1 the primary gradient, the direction d is the one nearest to
    s_1 g_1 with

        <s_j g_j, d> >= tau * |s_j g_j|^2    for all other j,

    rescaled to the length of g_1. T backward passes and one small quadratic programme.

    No epsilon is added to the running means: a gradient that was never other than zero has no
    constraint. If the constraints contradict each other, as those of two opposed gradients do, the
    direction is g_1, as in the paper. They are taken to if they are missed by more than half;
    what can be met by half can be met by a direction twice as long.

    Weights: never negative. Degree 1 in the loss scale; multiplying another loss than the primary
    in all steps changes nothing. There is no `scale`, as the length is that of one gradient. Equal
    gradients, and whenever all constraints hold: the primary gradient. A gradient opposed to it
    turns the update around, however small tau: its part comes first. Primary gradient zero: no
    update. Another zero row weighs zero. T = 1: one.

    Args:
        tau: progress an objective is sure of, as a share of what its own normalised gradient would
            bring; the paper's 0.02
        beta: decay of the running means, the paper's 0.999; an inactive objective keeps its mean
        primary: name of the primary objective; None: the first one. If it is inactive, the first
            active one takes its place

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.PCD(tau=0.5), [[1.0, 0.0], [0.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.8944', '0.2236']
    """

    tau: Annotated[float, Range(0.0, 1.0)] = 0.02
    beta: Annotated[float, Range(0.0, 1.0, open="high")] = 0.999
    primary: str | None = None

    reference: ClassVar[str] = "Priority-Constrained Descent, TMLR 2026, arXiv:2606.29521"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    exempt: ClassVar[dict[str, str]] = {"permutation": "the first objective is the primary one"}

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Squares:
        zeros = np.zeros((*blocks, len(names)), "float32")
        return Squares(zeros, zeros.copy())

    def weigh(self, evidence: Evidence, state: Squares) -> tuple[Tensor, State]:
        form = cosine_form(evidence.gramian, evidence.active)
        state = self._observe(evidence, form, state)
        mean = ops.where(form.alive, state.mean, 1.0)
        length = ops.where(form.alive, form.norms / ops.sqrt(mean), 0.0)
        leads = self._leads(evidence)
        others = ops.logical_and(form.alive, ops.logical_not(leads))
        lead = ops.where(leads, length, 0.0)
        wanted = ops.where(others, self.tau * length - _sum(form.cosines, lead), 0.0)
        both = ops.cast(ops.logical_and(others[..., :, None], others[..., None, :]), "float32")
        identity = ops.eye(both.shape[-1], dtype="float32")
        matrix = form.cosines * both * (1 - identity) + identity
        help_ = ops.where(others, nonneg_qp(with_ridge(matrix), wanted), 0.0)
        missed = ops.where(others, wanted - _sum(form.cosines, help_), 0.0)
        met = ops.all(missed <= 0.5 * self.tau * length, axis=-1, keepdims=True)
        weights = lead + ops.where(met, help_, 0.0)
        return self._as_long_as_the_lead(weights, leads, form), state

    def _leads(self, evidence: Evidence) -> Tensor:
        """(..., T) bool: true for one objective, the first one in line that is active."""
        count, names = len(evidence.names), evidence.names
        if self.primary is not None and self.primary not in names:
            raise ValueError(
                f"PCD(primary={self.primary!r}): `primary` must be the name of an objective. "
                f"Objectives: {', '.join(map(repr, names))}."
            )
        line = np.arange(count, 0, -1)
        line[names.index(self.primary) if self.primary else 0] = count + 1
        rank = ops.where(evidence.active, ops.convert_to_tensor(line.astype("int32")), 0)
        return ops.equal(rank, ops.maximum(ops.max(rank, axis=-1, keepdims=True), 1))

    def _observe(self, evidence: Evidence, form: CosineForm, state: Squares) -> Squares:
        seen = state.seen + ops.cast(evidence.active, "float32")
        decay = math.log(self.beta) if self.beta > 0 else -math.inf
        share = (1 - self.beta) / -ops.expm1(ops.maximum(seen, 1.0) * decay)
        square = ops.where(form.alive, ops.square(form.norms), 0.0)
        mean = state.mean + share * (square - state.mean)
        return Squares(ops.where(evidence.active, mean, state.mean), seen)

    def _as_long_as_the_lead(self, weights: Tensor, leads: Tensor, form: CosineForm) -> Tensor:
        """Weights of rows, from those of unit rows, with an update as long as the lead."""
        square = ops.sum(weights * _sum(form.cosines, weights), axis=-1, keepdims=True)
        size = ops.sum(weights, axis=-1, keepdims=True)
        # Below that the update is the rounding error of gradients that cancel out.
        left = square > ops.square(1e-3 * size)
        found = ops.where(left, weights / ops.sqrt(ops.where(left, square, 1.0)), 0.0)
        target = ops.sum(ops.where(leads, form.norms, 0.0), axis=-1, keepdims=True)
        dead = ops.any(ops.logical_and(leads, ops.logical_not(form.alive)), axis=-1, keepdims=True)
        return ops.where(dead, 0.0, found * (target / form.norms))
