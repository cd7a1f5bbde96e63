"""ConFIG: an update with the same cosine to every gradient."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Scale, State, Tensor, ops
from polytape.linalg.equal_cosines import with_projections
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class ConFIG(Method):
    """Conflict-free inverse gradients: the update makes the same angle with every gradient.

    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025. With unit rows U, the direction is x = U^+ p and the length the sum of
    the projections of all gradients on it: J^T w = (sum_t <g_t, x>) x / |x|^2. From the Gramian:
    C the cosines, d the norms, y = C^+ p, x = U^T y. T backward passes.

    The same formula serves two objectives, for which the paper has a special one that divides by
    zero for parallel gradients. C^+ is the pseudo-inverse with a relative cut-off.

    Weights: may be negative. Degree 1 in the loss scale; the direction does not change if a single
    loss is multiplied by a positive number. Linearly independent gradients: the update conflicts
    with none. Equal gradients: their sum, one each. Exactly opposed rows, or unit rows that
    balance each other: zero up to rounding. Rows that do so nearly are told apart, and the
    direction stays the same whatever a single loss is multiplied by, down to 1e-6 rad where the
    gradients themselves are at hand, and to 1e-3 rad for T > 2 from a Gramian alone (`pt.weigh`),
    which is no more than rounding below. A zero row is left out and weighs zero. T = 1: one.
    rank < T: cosines as near to equal as can be, in the sense of least squares, which may conflict.

    Args:
        preference: p, one positive number per objective: cosines are in these proportions; None:
            all equal, as in the paper
        scale: "sum" is the paper's: equal gradients give their sum

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.ConFIG(), [[1.0, 0.0], [0.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['1.5000', '0.7500']
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    scale: Scale = "sum"

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Liu, Chu and Thuerey, ICLR 2025"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "impartial"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        wanted = preferred(evidence, self.preference)
        form, solution, projections, square = with_projections(
            evidence.gramian, evidence.active, wanted, evidence.get("compressed")
        )
        length = ops.sum(form.norms * projections, axis=-1, keepdims=True)
        square = ops.where(square > 0, square, 1.0)
        return solution * (length / form.norms) / square, state
