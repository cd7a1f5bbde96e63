"""GradDrop: per coordinate, one sign is kept at random."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, Scale, Seed, State, Tensor, ops


@dataclass(frozen=True)
class GradDrop(Method):
    """Gradient sign dropout: each coordinate keeps its positive or its negative entries.

    Chen et al., "Just Pick a Sign", NeurIPS 2020. In each coordinate, with
    P = (1 + sum_t g_t / sum_t |g_t|) / 2, the positive entries are kept with probability P and the
    negative ones otherwise; the update is the sum of what was kept. T backward passes, and the
    rows themselves, one variable at a time.

    Departs from the paper, which masks gradients of activations, multiplied by the sign of the
    activation and added over the batch: here the entries are those of the gradients of shared
    variables, where no such sign exists.

    Weights: one each; what is dropped differs from coordinate to coordinate. Degree 1 in the loss
    scale. Equal gradients, and coordinates without a conflict of signs: their sum. Opposed
    gradients: in each coordinate one of the two. A coordinate in which all entries are zero stays
    zero. A zero row changes nothing. T = 1: the gradient itself.

    Args:
        leak: share of the dropped entries that passes nevertheless; the paper's default 0. One
            turns the method into the sum
        scale: "sum" is the paper's

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.GradDrop(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [float(w) for w in weights]
        [1.0, 1.0]
    """

    leak: Annotated[float, Range(0.0, 1.0)] = 0.0
    scale: Scale = "sum"

    needs: ClassVar[Need] = "rows"
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = (
        "Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, NeurIPS 2020"
    )
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(evidence.losses), state

    def combine(self, rows: Tensor, seed: Seed) -> Tensor:
        total = ops.sum(rows, axis=0)
        size = ops.sum(ops.abs(rows), axis=0)
        positive = 0.5 * (1.0 + total / ops.where(size > 0, size, 1.0))
        uniform = ops.uniform(tuple(total.shape), seed)
        kept = ops.where(positive > uniform, rows > 0, rows < 0)
        return ops.sum(ops.where(kept, rows, self.leak * rows), axis=0)
