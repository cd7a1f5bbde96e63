"""The plain sum: what Keras does."""

from dataclasses import dataclass
from typing import ClassVar

from polytape.contract import Evidence, Method, Need, State, Tensor, ops


@dataclass(frozen=True)
class Sum(Method):
    """The sum of the losses: every weight is one, as in plain Keras.

    One backward pass in all; `combine="sum"` trains exactly as `keras.Model` does.

    Weights: one, never negative. Degree 1 in the loss scale. Equal gradients: their sum. Opposed
    gradients cancel. T = 1: the gradient itself.

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.Sum(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [float(w) for w in weights]
        [1.0, 1.0]
    """

    needs: ClassVar[Need] = "losses"
    native_scale: ClassVar[str | None] = "sum"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    constant: ClassVar[bool] = True

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(evidence.losses), state
