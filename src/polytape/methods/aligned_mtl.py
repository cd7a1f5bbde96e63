"""Aligned-MTL: gradients made orthogonal and equally long before they are added."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, OneOf, Preference, Scale, State, Tensor, ops
from polytape.linalg.preference import preferred
from polytape.linalg.spectral import Spectrum, closer, spectrum


def _goal(found: Spectrum, target: str) -> Tensor:
    """The eigenvalue (..., 1) that all others are brought to."""
    count = ops.sum(found.kept, axis=-1, keepdims=True)
    if target == "mean":
        return ops.sum(found.kept * found.values, axis=-1, keepdims=True) / ops.maximum(count, 1.0)
    if target == "min":
        return ops.min(ops.where(found.kept > 0, found.values, 1e38), axis=-1, keepdims=True)
    # Ascending, so the ones that count are the last: their middle one, or two.
    size = found.values.shape[-1]
    low = ops.cast(size - ops.maximum(ops.floor(count / 2) + 1, 1.0), "int32")
    high = ops.cast(size - ops.maximum(ops.floor((count + 1) / 2), 1.0), "int32")
    pair = ops.take_along_axis(found.values, ops.concatenate([low, high], axis=-1), axis=-1)
    return ops.mean(pair, axis=-1, keepdims=True)


@dataclass(frozen=True)
class AlignedMTL(Method):
    """Aligned-MTL: the nearest orthogonal system to the gradients is added up in their place.

    Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023. With
    G = V L V^T, the rows of B J, where B = sqrt(l) V L^(-1/2) V^T, are orthogonal and of the same
    length sqrt(l): condition number one. The update is their sum, w = B p. T backward passes.

    Eigenvalues of at most T * eps times the largest (eps of float32) count as zero, as in
    published codes: with "min" the update then jumps when a direction drops out, and a gradient
    less than about 1/1500 of the longest (T = 4) is not seen. That is so for a Gramian alone
    (`pt.weigh`); where the gradients themselves are at hand, combinations down to 1e-6 of the
    longest are. In float32 an eigenvalue that is a
    share s of the largest is known to about eps / s of itself, and so is the update.

    Weights: may be negative. Degree 1 in the loss scale. Equal gradients: their sum, once each.
    Opposed gradients of equal length: zero. A zero row is left out and weighs zero, though it
    counts in the rescaling of p. T = 1: one. rank < T: the system is orthogonal in the span.

    Args:
        target: which eigenvalue l is: "min", the smallest that is not zero (the paper's, default),
            "median" or "mean"
        preference: p, one positive number per objective, rescaled to add up to the number of active
            ones; None: one each, as in the paper
        scale: "sum" is the paper's: equal gradients give weights of one

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.AlignedMTL(), [[1.0, 0.0], [0.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['1.0000', '0.5000']
    """

    target: Annotated[str, OneOf(("min", "median", "mean"))] = "min"
    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    scale: Scale = "sum"

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Senushkin, Patakin, Kuznetsov and Konushin, CVPR 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        found = spectrum(evidence.gramian)
        if evidence.get("compressed") is not None:
            found = closer(found, evidence.get("compressed"))
        stretch = ops.sqrt(_goal(found, self.target)) / ops.sqrt(found.values)
        wanted = found.coordinates(preferred(evidence, self.preference))
        return found.vector(stretch * found.kept * wanted), state
