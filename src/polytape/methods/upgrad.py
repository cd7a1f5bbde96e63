"""UPGrad: every gradient is freed of conflict, then they are added."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Preference, Range, Scale, State, Tensor, ops
from polytape.linalg.dual_cone import project_onto_dual_cone, regularised
from polytape.linalg.preference import preferred


@dataclass(frozen=True)
class UPGrad(Method):
    """Unconflicting projection of gradients: each is projected on the dual cone, then averaged.

    Quinton & Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv:2406.16232, 2024. The
    dual cone holds the updates that raise no loss, {x : J x >= 0}; the nearest one to p_i g_i is
    J^T v_i with v_i = argmin v^T G v over v >= p_i e_i. Then w = sum_i v_i. T backward passes and
    one batch of T small quadratic programmes, solved on the device.

    Departs from published code in precision: there `regularization` is 1e-4, and nothing at all is
    done for gradients shorter than 0.01. Here each programme is solved in units of its own gradient
    norm, so rows of very different norm, or all tiny, are freed of conflict too; and beside the
    Pareto front, where gradients are nearly opposed and 1e-4 would turn the update aside by up to a
    right angle, it is exact to 2e-7 divided by the angle that is left.

    What regularization buys: a gradient shorter than about regularization^(1/2) times the root of
    the trace has no veto, and no weight exceeds about 1 / (4 regularization)^(1/2). Use the
    published 1e-4 where objectives are single examples, or many and partly solved: gradients that
    have all but vanished would else hold up all others, at weights of up to 1e13. What it costs:
    such gradients may be in conflict with the update, and near the front it leads along the front
    instead of onto it. On a problem of two losses and two variables, with Adam, 1e-4 ends at one
    and the same point of the front from four of five starts, 0 where each start leads to; on
    networks of a few tasks, each with gradients worth the name, both train alike. Hence 0.

    Weights: never negative, at least p_i. Degree 1 in the loss scale. Equal gradients: their sum.
    Opposed gradients a and -c a cancel out, and other gradients, made orthogonal to a, remain.
    Without conflict: the plain sum (weights of one). A zero row has weight p_i and no effect.
    T = 1: one. Weights that are not unique (rank < T): about the smallest.

    Args:
        preference: p, one positive number per objective, rescaled to add up to one over the active
            objectives; None: equal, as in the paper
        regularization: a share of the trace of G that is added to its diagonal in these programmes;
            0 (default): the exact projections. See above
        scale: the paper's weights of equal gradients add up to one ("mean"); by default ("sum")
            they are multiplied by the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.UPGrad(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [f"{float(w):.3f}" for w in weights]
        ['2.000', '1.250']
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    regularization: Annotated[float, Range(0.0, 1e6)] = 0.0
    scale: Scale = "sum"

    evidence: ClassVar[tuple[str, ...]] = ("compressed_gradients",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Quinton and Rey, arXiv:2406.16232, 2024"
    guarantees: ClassVar[frozenset[str]] = frozenset(
        {"non-conflicting", "scale-free", "permutation", "stationary"}
    )

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        share = preferred(evidence, self.preference) / evidence.count
        identity = ops.eye(share.shape[-1], dtype=share.dtype)
        freed = project_onto_dual_cone(
            *regularised(evidence, self.regularization), identity * share[..., None, :]
        )
        return ops.sum(freed, axis=-2), state
