"""Krum: the gradients that lie closest to their neighbours."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Integer, Method, Scale, State, Tensor, ops

_TIE = 1e-5  # scores that agree this well, relatively, are equal: float32 sees no difference


@dataclass(frozen=True)
class Krum(Method):
    """Krum and Multi-Krum: the mean of those gradients that lie closest to their neighbours.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017. The score of gradient i is the sum of |g_i - g_j|^2 over the m - faulty - 2
    gradients nearest to it, m the number of active ones; the update is the mean of the `selected`
    gradients of least score. From the Gramian: |g_i - g_j|^2 = G_ii + G_jj - 2 G_ij. T backward
    passes. Meant for several estimates of the same gradient, some of them wrong.

    Scores are sums of squared distances, as in the paper; TorchJD adds the distances themselves.
    Gradients whose scores agree to 1e-5 share what is left for them, where the paper takes the one
    of smallest index: two gradients, or any that are symmetric to each other, weigh the same.

    Weights: never negative; most are zero. Degree 1 in the loss scale. Equal gradients: their sum.
    T = 1: one. T = 2: the plain sum, so opposed gradients cancel as in the sum. A zero row is a
    gradient like any other, and may well be the one that is selected. rank < T: no exception.

    Args:
        faulty: f, how many gradients may be arbitrarily wrong. The paper's guarantee needs T >= 2 f
            + 3, and fewer objectives are refused unless f = 0. Default 0, ours
        selected: how many gradients are averaged: 1 (default) is Krum, more is Multi-Krum. At least
            one neighbour is always counted, and at most all active gradients are selected
        scale: the paper's weights add up to one ("mean"); by default ("sum") they are multiplied by
            the number of active objectives

    Example:
        >>> import polytape as pt
        >>> gramian = [[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 9.0]]
        >>> weights, _ = pt.weigh(pt.Krum(scale="paper"), gramian)
        >>> [float(w) for w in weights]
        [0.5, 0.5, 0.0]
    """

    faulty: Annotated[int, Integer(0)] = 0
    selected: Annotated[int, Integer(1)] = 1
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "a zero gradient is an estimate like any other, with a say in the scores"
    }

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        total = len(names)
        if self.faulty and total < 2 * self.faulty + 3:
            raise ValueError(
                f"Krum(faulty={self.faulty}) needs at least 2 * faulty + 3 = {2 * self.faulty + 3} "
                f"objectives to outvote the faulty ones. Received: {total}. Lower `faulty`."
            )
        return super().init(names, blocks)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        score = ops.where(evidence.active, self._scores(evidence), 3e38)
        wanted = ops.minimum(evidence.count, float(self.selected))
        return _least(score, wanted) / wanted, state

    def _scores(self, evidence: Evidence) -> Tensor:
        """Sum of squared distances to the nearest others, in units of the longest gradient."""
        squared = ops.diagonal(evidence.gramian, axis1=-2, axis2=-1)
        unit = ops.max(squared, axis=-1, keepdims=True)
        unit = ops.where(unit > 0, unit, ops.ones_like(unit))
        gramian, squared = evidence.gramian / unit[..., None], squared / unit
        apart = squared[..., :, None] + squared[..., None, :] - 2.0 * gramian
        size = squared.shape[-1]
        others = ops.logical_and(evidence.active[..., None, :], ops.eye(size) < 1)
        apart = ops.sort(ops.where(others, ops.maximum(apart, 0.0), 3e38), axis=-1)
        near = ops.maximum(evidence.count - (self.faulty + 2.0), 1.0)
        near = ops.minimum(near, evidence.count - 1.0)
        counted = ops.cast(ops.arange(size), "float32") < near[..., None]
        return ops.sum(ops.where(counted, apart, 0.0), axis=-1)


def _least(score: Tensor, wanted: Tensor) -> Tensor:
    """One for the `wanted` (..., 1) least scores (..., T); ties share what is left for them."""
    rank = ops.cast(ops.arange(score.shape[-1]), "float32")
    last = ops.where(ops.equal(rank, wanted - 1.0), ops.sort(score, axis=-1), 0.0)
    last = ops.sum(last, axis=-1, keepdims=True)
    below = ops.cast(score < last * (1.0 - _TIE), "float32")
    tied = ops.cast(score <= last * (1.0 + _TIE), "float32") - below
    left = wanted - ops.sum(below, axis=-1, keepdims=True)
    return below + tied * left / ops.sum(tied, axis=-1, keepdims=True)
