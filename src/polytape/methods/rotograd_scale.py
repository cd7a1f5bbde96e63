"""RotoGrad's scaling: equal norms, led by the objectives that have converged least."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from polytape.contract import Evidence, Integer, Method, Scale, State, Tensor, ops
from polytape.linalg.cosine import cosine_form
from polytape.linalg.ratio import ratio


class Start(NamedTuple):
    """What convergence is measured against; both (..., T)."""

    norms: Tensor  # float32, reference norms, zero if there are none yet
    seen: Tensor  # int32, steps with a gradient


@dataclass(frozen=True)
class RotoGradScale(Method):
    """All gradients scaled to one norm, a mean in which slow objectives count more.

    Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022: the
    scaling alone, without the rotations, which are layers of the network and not a
    combination of gradients. With d_i the gradient norms and d_i^0 those of the start,

        w_i = C / d_i,    C = sum_j a_j d_j,    a_j = (d_j / d_j^0) / sum_k (d_k / d_k^0).

    T backward passes; the norms are read off the Gramian's diagonal. The paper takes gradients by
    the shared representation; here they are those of whatever Gramian is measured, that of the
    shared variables by default.

    Weights: positive. Degree 1 in the loss scale; the direction, the sum of the unit gradients,
    does not change if a single loss is multiplied by a positive number. Equal gradients: their sum.
    Opposed gradients: zero. A zero row is left out, with weight one, and that step does not count
    as seen; an inactive objective likewise. T = 1: one. rank < T: no exception.

    Args:
        burn_in: d^0 is taken in the first step, and once more after this many; 20 as in the
            authors' code, 0 for the first step only
        scale: "sum" is the paper's: weights of equal gradients are one each

    Example:
        >>> import polytape as pt
        >>> _, state = pt.weigh(pt.RotoGradScale(), [[1.0, 0.0], [0.0, 1.0]])
        >>> weights, state = pt.weigh(pt.RotoGradScale(), [[1.0, 0.0], [0.0, 9.0]], state=state)
        >>> [f"{float(w):.4f}" for w in weights]  # C = 1 * 1/4 + 3 * 3/4
        ['2.5000', '0.8333']
    """

    burn_in: Annotated[int, Integer(0)] = 20
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Javaloy and Valera, ICLR 2022"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "impartial"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Start:
        shape = (*blocks, len(names))
        return Start(np.zeros(shape, "float32"), np.zeros(shape, "int32"))

    def weigh(self, evidence: Evidence, state: Start) -> tuple[Tensor, State]:
        _, norms, alive = cosine_form(evidence.gramian, evidence.active)
        due = ops.logical_or(state.seen == 0, state.seen == self.burn_in)
        first = ops.where(ops.logical_and(alive, due), norms, state.norms)
        lag = ops.where(alive, ratio(norms, first), 0.0)
        total = ops.sum(lag, axis=-1, keepdims=True)
        share = lag / ops.where(total > 0, total, 1.0)
        common = ops.sum(share * norms, axis=-1, keepdims=True)
        seen = ops.where(alive, ops.minimum(state.seen + 1, self.burn_in + 1), state.seen)
        return ops.where(alive, common / norms, 1.0), Start(first, seen)
