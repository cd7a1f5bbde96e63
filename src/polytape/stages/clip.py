"""A bound on each objective's gradient."""

from dataclasses import dataclass
from typing import Annotated

from polytape.contract import Evidence, Method, Range, State, Tensor, ops


@dataclass(frozen=True)
class Clip(Method):
    """Rows longer than `norm` shortened to it; shorter ones untouched.

    As a stage of a chain, the next stage sees the clipped rows; alone, it is the sum of the
    per-objective clipped gradients. The norm is read off the Gramian's diagonal: no tensor of the
    network is touched for it. To bound the combined update instead, use `GlobalClip`.

    Weights: min(1, norm / ||g_t||). Not homogeneous: `norm` is in units of loss / parameter, after
    loss weights and after removal of any loss scaling; `inf` clips nothing. A zero row keeps weight
    one.

    Args:
        norm: the length, in units of loss / parameter; `inf` clips nothing

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.Clip(1.0), [[4.0, 0.0], [0.0, 0.25]])
        >>> [float(w) for w in weights]
        [0.5, 1.0]
    """

    norm: Annotated[float, Range(0, open="low")] = 1.0

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return shorten(evidence.norms, self.norm), state


def shorten(norms: Tensor, longest: float) -> Tensor:
    """Factors, shaped as `norms`, that bring every norm down to `longest` at most."""
    return ops.where(norms > longest, longest / ops.where(norms > 0, norms, 1.0), 1.0)
