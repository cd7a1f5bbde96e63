"""The balancer of EnCodec: each objective has a fixed share of a fixed gradient norm."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Range, State, Tensor, ops
from polytape.linalg.average import Average
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class EncodecBalancer(Method):
    """Gradients divided by a moving average of their norms: preferences become shares.

    The loss balancer of Defossez, Copet, Synnaeve and Adi, "High Fidelity Neural Audio
    Compression", TMLR 2023. With n_i the exponential moving average of the gradient norm of
    objective i, this step included and without the bias of its start,

        w_i = norm * (p_i / sum_j p_j) / n_i.

    The paper takes the gradients by the output of the model: `measure="outputs"` does, and costs
    one backward pass through the network. By itself the method reads the diagonal of whatever
    Gramian is measured, that of the shared variables by default, with T backward passes.

    Weights: never negative. Degree 0 in the loss scale, as long as the scale does not change; the
    same holds for each single loss. Equal gradients g: norm * g / ||g||. Opposed gradients: zero.
    A gradient longer than its average counts for more, 1 / (1 - decay) times at most. A zero row
    enters its average; until a gradient that is not zero was seen, it weighs zero. An inactive
    objective keeps its average. T = 1: norm / n. rank < T: no exception.

    Args:
        preference: p, one positive number per objective; None: equal
        norm: R, about the norm of the combined gradient if all agree; the paper's 1
        decay: of the moving average; the paper's 0.999

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.EncodecBalancer((3.0, 1.0)), [[4.0, 0.0], [0.0, 0.25]])
        >>> [float(w) for w in weights]
        [0.375, 0.5]
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    norm: Annotated[float, Range(0.0, open="low high")] = 1.0
    decay: Annotated[float, Range(0.0, 1.0, open="high")] = 0.999

    reference: ClassVar[str] = "Defossez, Copet, Synnaeve and Adi, TMLR 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "impartial"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Average:
        return Average.empty((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Average) -> tuple[Tensor, State]:
        state = state.after(evidence.norms, self.decay, evidence.active)
        mean = state.mean
        share = self.norm * preferred(evidence, self.preference) / evidence.count
        return ops.where(mean > 0, share / ops.where(mean > 0, mean, 1.0), 0.0), state
