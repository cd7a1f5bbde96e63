"""MMPareto: the losses of modalities beside the multimodal one, encoder by encoder."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, Range, State, Tensor, ops
from polytape.linalg.cosine import cosine_form
from polytape.linalg.length import length_of
from polytape.linalg.min_norm import min_norm_point

_CANCELLED = 1e-5  # of the squared size of an update: the rounding error of a float32 Gramian


@dataclass(frozen=True)
class MMPareto(Method):
    """Multimodal Pareto: plain sum where the objectives agree, min-norm weights where not.

    Wei and Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML
    2024, Algorithm 1. Meant for a multimodal loss and one loss per modality: each encoder is
    reached by the former and by its own. With m objectives that reach an encoder,

        w = 1 if no two of their gradients conflict, else m argmin w^T G w on the simplex,

    G the Gramian over the encoder. Then each variable's part of the update, if it is shorter than
    the plain sum would be, is brought to that length, and all is multiplied by `boost`. An
    encoder is made up of the variables that the same objectives reach. T backward passes.

    The paper has m = 2; more objectives per encoder are treated alike. Published code divides by
    zero where gradients cancel out: there the update keeps its length, about zero.

    Weights: never negative. Degree 1 in the loss scale, but at least as long as the sum: there is
    no `scale`. Equal gradients: boost times their sum. Opposed gradients: zero. A zero row
    takes no part. T = 1: boost. Asked for a single Gramian, it is that of one variable.

    Args:
        boost: the paper's 1.5: larger steps, whose noise is to help generalisation. 1 leaves the
            size of the plain sum where nothing conflicts

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.MMPareto(), [[1.0, -1.0], [-1.0, 4.0]])
        >>> [f"{float(w):.4f}" for w in weights]
        ['2.8347', '1.1339']
    """

    boost: Annotated[float, Range(0.0, open="low high")] = 1.5

    reference: ClassVar[str] = "Wei and Hu, ICML 2024"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free", "stationary"})

    @property
    def scope(self) -> str | None:
        return "variable"

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        gramian, active = evidence.gramian, evidence.active
        if evidence.reach is None:
            return self._rescaled(gramian, active, self._settled(gramian, active)), state
        patterns, encoder = np.unique(evidence.reach, axis=0, return_inverse=True)
        encoder = ops.convert_to_tensor(encoder.reshape(-1).astype("int32"))
        among = ops.logical_and(active[None], ops.convert_to_tensor(patterns))
        whole = ops.segment_sum(gramian, encoder, num_segments=len(patterns))
        weights = ops.take(self._settled(whole, among), encoder, axis=0)
        return self._rescaled(gramian, ops.take(among, encoder, axis=0), weights), state

    def _settled(self, gramian: Tensor, active: Tensor) -> Tensor:
        """Weights (..., T) of each encoder, from its Gramian."""
        form = cosine_form(gramian, active)
        alive = ops.cast(form.alive, "float32")
        conflict = ops.any(form.cosines < 0, axis=(-2, -1))[..., None]
        shortest = min_norm_point(gramian, form.alive) * ops.sum(alive, axis=-1, keepdims=True)
        return ops.where(conflict, shortest, alive)

    def _rescaled(self, gramian: Tensor, active: Tensor, weights: Tensor) -> Tensor:
        length = length_of(gramian, weights)
        norms = ops.sqrt(ops.maximum(ops.diagonal(gramian, axis1=-2, axis2=-1), 0.0))
        size = ops.sum(weights * norms, axis=-1, keepdims=True)
        left = length > math.sqrt(_CANCELLED) * size
        plain = length_of(gramian, ops.cast(active, "float32"))
        ratio = ops.where(left, plain, 1.0) / ops.where(left, length, 1.0)
        return self.boost * weights * ops.maximum(ratio, 1.0)
