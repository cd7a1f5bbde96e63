"""Nash-MTL: the update on which the objectives agree when they bargain."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Range, State, Tensor, ops
from polytape.linalg.bargaining import bargain
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class NashMTL(Method):
    """The Nash bargaining solution: the update that maximises the product of the gains.

    Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022. The weights solve
    G a = 1 / a, a > 0: every objective gets the same gain a_i (G a)_i = 1. T backward passes.

    Degree 0 in the loss scale, like the paper: multiplying the losses leaves the update as it
    is, so its length says nothing about the distance to a solution, and the learning rate
    has to be chosen for this method and to decay. There is therefore no `scale`.

    Departs from published code in the solver. a is the minimum of the convex function
    a^T G a / 2 - sum(log a), found by a few Newton steps to float32 precision, where the paper's
    sequence of convex programmes stops early and falls back on old weights on failure. So there is
    no state; to reuse weights for some steps, as its `update_weights_every` does, wrap in `Every`.

    Weights: positive. Equal gradients: their direction, one long (None: sqrt(m)). Multiplying a
    single loss leaves the update as it is, too. T = 1: the unit gradient. T = 2, no bound:
    a_i = 1 / (|g_i| sqrt(1 + cos)). A zero row weighs zero and the others bargain without it.
    Opposed gradients, and any a >= 0 with J^T a = 0, leave the equations without a solution: a
    ridge of 1e-6 on the cosines bounds |g_i| a_i by about 1e3 and these gradients cancel out.
    Beside such points it shortens the update; it does not turn it, where the gradients themselves
    are at hand.

    Args:
        max_norm: longest update: weights are scaled down until |J^T a| <= max_norm. 1 is the
            default of published code. As a^T G a is the number m of active objectives, whatever the
            gradients, |J^T a| is sqrt(m): a bound of 1 makes every update one long, None leaves it
            sqrt(m) long. Only at (nearly) Pareto-stationary points is it shorter
        preference: p, one positive number per objective, rescaled to add up to m: bargaining
            powers, G a = p / a (Kalai 1977), so that gains a_i (G a)_i are p_i; None: one each, as
            in the paper

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.NashMTL(max_norm=None), [[4.0, 0.0], [0.0, 1.0]])
        >>> [f"{float(w):.3f}" for w in weights]
        ['0.500', '1.000']
    """

    max_norm: Annotated[float | None, Range(0.0, open="low high", optional=True)] = 1.0
    preference: Annotated[tuple[float, ...] | None, Preference()] = None

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    reference: ClassVar[str] = "Navon et al., ICML 2022"
    guarantees: ClassVar[frozenset[str]] = frozenset(
        {"non-conflicting", "impartial", "scale-free", "permutation", "stationary"}
    )

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        share = preferred(evidence, self.preference)
        weights = bargain(
            evidence.gramian, evidence.active, share=share, compressed=evidence.get("compressed")
        )
        if self.max_norm is None:
            return weights, state
        gains = ops.sum(evidence.gramian * weights[..., None, :], axis=-1)
        square = ops.sum(weights * gains, axis=-1, keepdims=True)
        length = ops.sqrt(ops.maximum(square, 0.0))
        return weights * (self.max_norm / ops.maximum(length, self.max_norm)), state
