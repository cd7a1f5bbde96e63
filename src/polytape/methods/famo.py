"""FAMO: losses that fall at equal rates, from the losses alone."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, Scale, State, Tensor, ops
from polytape.linalg.adam import Trained, untrained
from polytape.linalg.ideal import Point, above
from polytape.linalg.reciprocal import logarithm, reciprocal
from polytape.linalg.simplex import softmax


@dataclass(frozen=True)
class FAMO(Method):
    """Fast adaptive multitask optimization: the log losses are made to fall equally fast.

    Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, Algorithm 1. With D_t =
    L_t - b_t and z = softmax(s): w_t = c z_t / D_t, c = 1 / sum_t (z_t / D_t). After the update the
    losses of the same batch are looked at again; with delta_t = log D_t before - log D_t after, s
    takes a step of Adam down the gradient z * (delta - z^T delta) + decay * s, so that what fell
    less weighs more. One backward pass, and a second forward pass.

    Departs from published code in its epsilon of 1e-8 on D, which would set a scale and is left
    out, and in its clipping of the update to a norm of one, which belongs to the optimizer.

    Weights: never negative. They do not change when all losses are multiplied by a number: degree
    1; multiplying a single loss changes the length of the update only. Equal gradients of equal
    losses: their sum, at the start. Opposed gradients of equal length: the one with the larger z_t
    / D_t wins. T = 1: one. A zero row takes its share with its loss. A D_t below zero counts by its
    size, one of exactly zero weighs zero; where all are, w = z, as for any equal D, so that the
    update goes on. An objective that is inactive, or whose D_t is not
    positive before and after, keeps its s.

    Args:
        rate: of that Adam; the paper's 0.025. s starts at zero
        decay: of s towards equal z; 1e-3 as in the paper's Algorithm, published scripts set 1e-5 to
            1e-2
        ideal: b, one number per objective in units of its (weighted) loss: a lower bound of it;
            None (default): zero
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.FAMO(scale="mean"), losses=[1.0, 4.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.8000', '0.2000']
    """

    rate: Annotated[float, Range(0.0, 1e6)] = 0.025
    decay: Annotated[float, Range(0.0, 1e6)] = 1e-3
    ideal: Annotated[tuple[float, ...] | None, Point()] = None
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    evidence: ClassVar[tuple[str, ...]] = ("losses_before_after",)
    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Liu, Feng, Stone and Liu, NeurIPS 2023"
    guarantees: ClassVar[frozenset[str]] = frozenset({"impartial", "permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "it sees losses only: one without a gradient takes its share"
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Trained:
        return untrained((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Trained) -> tuple[Tensor, State]:
        if (last := evidence.get("last")) is not None:
            state = self.review(last.before, last.after, last.active, state)
        size = ops.abs(above(evidence, self.ideal))
        least = ops.min(ops.where(reciprocal(size) > 0, size, 3e38), axis=-1, keepdims=True)
        part = softmax(state.value, evidence.active) * (least * reciprocal(size))
        total = ops.sum(part, axis=-1, keepdims=True)
        # Where no D is above zero they are all alike, and equal D weigh as z.
        part = ops.where(total > 0, part, softmax(state.value, evidence.active))
        total = ops.sum(part, axis=-1, keepdims=True)
        return part / ops.where(total > 0, total, 1.0), state

    def review(self, before: Tensor, after: Tensor, active: Tensor, state: Trained) -> Trained:
        """The state after looking again at the batch of the last step; all (..., T).

        Args:
            before: (..., T) losses before that step
            after: (..., T) losses after it
            active: (..., T) bool: who took part
            state: as of `weigh`

        Returns:
            The next state.
        """
        bound = ops.convert_to_tensor(self.ideal or 0.0, dtype="float32")
        before, after = ops.maximum(before - bound, 0.0), ops.maximum(after - bound, 0.0)
        both = ops.logical_and(reciprocal(before) > 0, reciprocal(after) > 0)
        active = ops.logical_and(active, both)
        fall = logarithm(before) - logarithm(after)
        share = softmax(state.value, active)
        slope = share * (fall - ops.sum(share * fall, axis=-1, keepdims=True))
        return state.descended(slope + self.decay * state.value, self.rate, active)
