"""Random loss weighting: fresh random weights in each step."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, OneOf, Scale, State, Tensor, ops
from polytape.linalg.simplex import softmax


@dataclass(frozen=True)
class RandomWeights(Method):
    """Fresh random weights in each step, blind to losses and gradients (RLW).

    Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022. One backward pass in
    all. A baseline that any informed method should beat.

    Weights: positive. They depend on the seed of the step only, hence degree 1 in the loss scale.
    Equal gradients: their sum. Opposed gradients: whatever the draw says. A zero row takes its
    share of the weights. An inactive objective draws a number that is then left out. T = 1: one.

    Args:
        distribution: "normal": the softmax of T independent standard normal numbers (the paper's
            usual choice and our default); "dirichlet": uniform on the simplex, that is Dirichlet(1,
            ..., 1)
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives, so that their mean is one

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.RandomWeights(scale="paper"), [[1.0, -1.0], [-1.0, 4.0]])
        >>> f"{float(sum(weights)):.4f}"
        '1.0000'
    """

    distribution: Annotated[str, OneOf(("normal", "dirichlet"))] = "normal"
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "mean"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    reference: ClassVar[str] = "Lin, Ye, Zhang and Tsang, TMLR 2022"
    exempt: ClassVar[dict[str, str]] = {
        "permutation": "the numbers belong to positions, not to objectives",
        "zero row": "another number of objectives draws other numbers",
        "inactive": "another number of objectives draws other numbers",
        "batch": "each block draws its own numbers",
    }

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        shape = tuple(evidence.active.shape)
        if self.distribution == "normal":
            logits = ops.normal(shape, evidence.seed)
        else:
            # Exponential numbers, normalised, are Dirichlet(1, ..., 1); zero has no logarithm.
            uniform = ops.uniform(shape, evidence.seed, 1e-7, 1.0)
            logits = ops.log(-ops.log(uniform))
        return softmax(logits, evidence.active), state
