"""ScaleInvariant: the sum of the logarithms of the losses."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Preference, Range, State, Tensor, ops
from polytape.linalg.preference import preferred
from polytape.linalg.reciprocal import reciprocal


@dataclass(frozen=True)
class ScaleInvariant(Method):
    """Scale-invariant weights: descent on the sum of a_t log L_t.

    Folklore; as a baseline in Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022.
    The gradient of the logarithm is w_t = a_t / L_t. One backward pass in all.

    Weights: never negative. Degree 0 in the loss scale: the length of the update does not change
    either, so there is no `scale`, and a learning rate tuned for the sum has another meaning.
    Multiplying a single loss changes nothing at all. Equal gradients of equal losses: their sum
    over the loss. Opposed gradients of equal length: the one of the smaller loss wins. T = 1: the
    gradient of log L. A zero row keeps its weight, without effect. Losses must be positive to have
    a logarithm: a negative one counts by its size, a / (offset + |L|), and goes on falling; with
    offset 0 one of exactly zero weighs zero.

    Args:
        preference: a, one positive number per objective, rescaled to add up to the number of active
            objectives; None: one each, as published
        offset: of the logarithm, log(offset + L): 0 (default) is invariant; 1 is a published
            variant that leaves losses far below one to themselves, and then the guarantees do not
            hold

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.ScaleInvariant(), losses=[0.5, 4.0])
        >>> [float(w) for w in weights]
        [2.0, 0.25]
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    offset: Annotated[float, Range(0.0, open="high")] = 0.0

    needs: ClassVar[Need] = "losses"
    reference: ClassVar[str] = "folklore; Navon et al., ICML 2022"
    guarantees: ClassVar[frozenset[str]] = frozenset({"impartial", "permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        size = self.offset + ops.abs(evidence.losses)
        return preferred(evidence, self.preference) * reciprocal(size), state
