"""DualProj: the mean gradient, projected onto the updates that raise no loss."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Range, Scale, State, Tensor, ops
from polytape.linalg.dual_cone import project_onto_dual_cone, regularised
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class DualProj(Method):
    """Dual cone projection: the update nearest to the mean gradient that raises no loss.

    Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, eq. 11,
    with all objectives treated alike, as in Quinton & Rey, "Jacobian Descent for Multi-Objective
    Optimization", arXiv:2406.16232, 2024. w = argmin v^T G v over v >= p: J^T w is the projection
    of J^T p onto {x : J x >= 0}. T backward passes.

    `UPGrad` projects each gradient by itself and then adds; here the sum comes first, so that long
    gradients decide. Departs from published code, whose regularization is 1e-4, as `UPGrad` does;
    what it buys and costs is said there.

    Weights: never negative, at least p_i. Degree 1 in the loss scale. Equal gradients: their sum.
    Without conflict between any gradient and the sum: the plain sum (weights of one). Opposed
    gradients a and -c a: zero; other gradients are projected on what is orthogonal to a. A zero row
    has weight p_i and no effect. T = 1: one. Weights that are not unique (rank < T): about the
    smallest.

    Args:
        preference: p, one positive number per objective, rescaled to add up to one over the active
            objectives; None: equal, as in both papers
        regularization: a share of the trace of G that is added to its diagonal in the programme; 0
            (default): the exact projection. As in `UPGrad`
        scale: the paper's weights of equal gradients add up to one ("mean"); by default ("sum")
            they are multiplied by the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.DualProj(), [[1.0, -2.0], [-2.0, 9.0]])
        >>> [f"{float(w):.3f}" for w in weights]
        ['2.000', '1.000']
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    regularization: Annotated[float, Range(0.0, 1e6)] = 0.0
    scale: Scale = "sum"

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Lopez-Paz and Ranzato, NeurIPS 2017"
    guarantees: ClassVar[frozenset[str]] = frozenset(
        {"non-conflicting", "scale-free", "permutation", "stationary"}
    )

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        share = preferred(evidence, self.preference) / evidence.count
        found = project_onto_dual_cone(
            *regularised(evidence, self.regularization), share[..., None, :]
        )
        return ops.squeeze(found, axis=-2), state
