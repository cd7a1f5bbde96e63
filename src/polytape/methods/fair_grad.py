"""FairGrad: the update that is fair to the objectives, in the sense of alpha-fairness."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Range, State, Tensor
from polytape.linalg.bargaining import bargain
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class FairGrad(Method):
    """Alpha-fair gradients: the update that maximises the alpha-fair utility of the gains.

    Ban & Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, eq. 7. The weights solve
    G w = w^(-1/alpha), w > 0: the objective that gains least weighs most. T backward passes.

    Degree (1 - alpha) / (1 + alpha) in the loss scale, as in the paper: losses twice as large give
    for alpha = 2 an update shorter by 2^(1/3). So the learning rate has to be chosen for this
    method, and there is no `scale`. Published codes multiply the update by T and clip its length
    at one: `GlobalClip` does the latter.

    Departs from published code in the solver. w is the minimum of the convex function
    w^T G w / 2 - sum(w^(1-1/alpha)) / (1-1/alpha), found by a few Newton steps to float32
    precision, where published codes hand the equations to SciPy's least squares.

    Weights: positive. Equal gradients: their direction. T = 1: |g|^(-2 alpha / (1 + alpha)). A zero
    row weighs zero and the others go on without it. Opposed gradients, and any w >= 0 with
    J^T w = 0, leave the equations without a solution: a ridge of 1e-6 on the cosines bounds
    |g_t| w_t by about 1e6^(alpha / (1 + alpha)) and these gradients cancel out. Beside such points
    it shortens the update; it does not turn it, where the gradients themselves are at hand.
    Weights may differ by more than float32 spans, where norms are far apart or alpha is 4 and more:
    |g_t| w_t below 1e-8 of the largest are not resolved. All others are, for every alpha.

    Args:
        alpha: which fairness: 1 is proportional fairness, the weights of `NashMTL(max_norm=None)`;
            2 (default, ours; the paper chooses it per data set) minimum potential delay; towards 0
            gains count in sum only, towards infinity only the least one counts
        preference: p, one positive number per objective, rescaled to add up to the number of active
            ones: G w = (p / w)^(1/alpha), the utilities counted p times; None: one each, as in the
            paper

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.FairGrad(), [[4.0, 0.0], [0.0, 1.0]])
        >>> [f"{float(w):.3f}" for w in weights]
        ['0.397', '1.000']
    """

    alpha: Annotated[float, Range(0.01, open="high")] = 2.0
    preference: Annotated[tuple[float, ...] | None, Preference()] = None

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    reference: ClassVar[str] = "Ban and Ji, ICML 2024"
    guarantees: ClassVar[frozenset[str]] = frozenset(
        {"non-conflicting", "scale-free", "permutation", "stationary"}
    )

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        share = preferred(evidence, self.preference)
        weights = bargain(
            evidence.gramian, evidence.active, self.alpha, share, evidence.get("compressed")
        )
        return weights, state
