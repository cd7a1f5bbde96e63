"""Tchebycheff: descent on the worst loss alone."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import (
    Evidence,
    Method,
    Need,
    OneOf,
    Preference,
    Scale,
    State,
    Tensor,
    ops,
)
from polytape.linalg.ideal import Point, above
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class Tchebycheff(Method):
    """Tchebycheff scalarization: descent on max_t a_t (L_t - z_t).

    Bowman 1976; Miettinen, "Nonlinear Multiobjective Optimization", 1999, section 3.4. Unlike a
    weighted sum it reaches every point of a Pareto front, convex or not. One backward pass in all.
    w_t = a_t where the maximum is attained, shared equally if several attain it, else zero.

    Weights: never negative, all but one zero as a rule; `STCH` is the smooth form. Degree 1 in the
    loss scale, if the ideal point goes with it. Equal gradients: their sum, if their losses are
    equal. Opposed gradients of equal length: the one of the larger loss wins. T = 1: one. A zero
    row takes all the weight while its loss is the worst. Losses may be zero or negative: only their
    order counts.

    Args:
        preference: a, one positive number per objective, rescaled to add up to the number of active
            objectives; None: one each
        divide: the modified form, max_t (L_t - z_t) / a_t (Ma et al. 2017): losses at the solution
            are then in proportion to the preference. Default False. The reciprocals are rescaled in
            the same way
        ideal: z, one number per objective in units of its (weighted) loss, at most its least
            possible value; None (default): zero
        scale: the weights of equal gradients add up to one as published ("mean"); by default
            ("sum") they are multiplied by the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.Tchebycheff(scale="mean"), losses=[1.0, 4.0])
        >>> [float(w) for w in weights]
        [0.0, 1.0]
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    divide: Annotated[bool, OneOf((False, True))] = False
    ideal: Annotated[tuple[float, ...] | None, Point()] = None
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Bowman, 1976; Miettinen, 1999"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "it sees losses only: the worst takes all the weight, gradient or not"
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        preference = self.preference
        if self.divide and preference is not None:
            preference = tuple(1.0 / entry for entry in preference)
        factor = preferred(evidence, preference)
        value = ops.where(evidence.active, factor * above(evidence, self.ideal), -3e38)
        worst = ops.cast(value >= ops.max(value, axis=-1, keepdims=True), "float32")
        return factor * worst / ops.sum(worst, axis=-1, keepdims=True), state
