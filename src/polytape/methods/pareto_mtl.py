"""Pareto MTL: the min-norm update inside a chosen part of the space of losses."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from polytape.contract import Evidence, Integer, Method, Scale, State, Tensor, ops
from polytape.linalg.min_norm import min_norm_point

Vectors = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ParetoMTL(Method):
    """Pareto multi-task learning: MGDA that keeps the losses nearest to one reference vector.

    Lin, Zhen, Li, Zhang and Kwong, "Pareto Multi-Task Learning", NeurIPS 2019. K unit vectors u_j
    divide the space of losses; the part of the chosen u_k is where h_j = <u_j - u_k, L> <= 0 for
    all j. Training one model per vector gives K trade-offs. Every step takes the min-norm point

        min |sum_t a_t g_t + sum_j b_j grad h_j|^2,    a, b >= 0 and adding up to one,

    over the gradients and those of the violated h_j: the update lowers all losses
    and all violated h_j, or is zero. It is folded into w = a + sum_j b_j (u_j - u_k), rescaled so
    that |w| adds up to the number of active objectives, as in published code. Until all
    h_j <= 0 for the first time, the violated h_j alone are lowered (section 4). T backward passes.

    Published code has two objectives; the formulas here are the paper's for any number. A
    constraint whose gradient is a rounding error of its parts is left out. An inactive objective is
    left out of the vectors, too.

    Weights: may be negative where a constraint is at work. Degree 1 in the loss scale. Equal
    gradients: their sum, in the chosen part; outside, what lowers the violated h_j. Opposed
    gradients: zero, likewise. A zero row is stationary: no update, likewise. T = 1: one. Losses are
    meant to be non-negative.

    Args:
        vectors: reference vectors, a tuple of K tuples of T numbers >= 0, brought to unit length.
            They point to losses, not to weights: (1, 0) allows the first loss to be large. None:
            the T axes and the diagonal, so that the diagonal's part is a cone about equal losses
            (ours)
        chosen: index k of the vector whose part is sought; default -1, the last
        patience: steps after which the first phase ends at the latest; default 1000, ours (two
            epochs in published code)
        scale: "sum" is that of published code

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.ParetoMTL(), [[1.0, 0.0], [0.0, 1.0]], losses=[1.0, 1.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['1.0000', '1.0000']
    """

    vectors: Vectors | None = None
    chosen: int = -1
    patience: Annotated[int, Integer(0)] = 1000
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Lin, Zhen, Li, Zhang and Kwong, NeurIPS 2019"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {
        "zero row": "an objective without a gradient is stationary, and its loss counts"
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors is not None and not _are_vectors(self.vectors):
            raise ValueError(
                f"ParetoMTL(vectors={self.vectors!r}): `vectors` must be a tuple of tuples of "
                "numbers >= 0, of equal length, each with a positive one, or None. "
                f"Received: {self.vectors!r}."
            )

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        """Steps left of the first phase, zero once the chosen part was reached.

        Args:
            names: the T objectives
            blocks: leading axes of the weights

        Returns:
            A dict with the steps left, (..., 1) int32.
        """
        del names
        return {"left": np.full((*blocks, 1), self.patience, "int32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        active, left = ops.cast(evidence.active, "float32"), state["left"]
        folds = self._folds(evidence.names, active)  # (..., K, T): u_j - u_k
        heights = ops.sum(folds * evidence.losses[..., None, :], axis=-1)
        # A vector equal to the chosen one differs from it by rounding when compiled.
        size = ops.sum(ops.abs(evidence.losses), axis=-1, keepdims=True)
        violated = heights > 1e-6 * size
        searching = ops.logical_and(ops.any(violated, axis=-1, keepdims=True), left > 0)
        identity = ops.eye(active.shape[-1], dtype="float32") * active[..., None, :]
        parts = ops.concatenate([identity, folds], axis=-2)
        gramian, sound = _gramian_of(parts, evidence.gramian)
        losses = ops.logical_and(evidence.active, ops.logical_not(searching))
        taking = ops.concatenate([losses, violated], axis=-1)
        taking = ops.logical_and(taking, ops.logical_or(sound, _first(active, violated)))
        shares = min_norm_point(gramian, taking)
        weights = ops.sum(parts * shares[..., None], axis=-2)
        size = ops.sum(ops.abs(weights), axis=-1, keepdims=True)
        weights = weights * (evidence.count / ops.where(size > 0, size, 1.0))
        return weights, {"left": ops.where(searching, left - 1, ops.zeros_like(left))}

    def _folds(self, names: tuple[str, ...], active: Tensor) -> Tensor:
        """What the other vectors have in excess of the chosen one, among active objectives."""
        count = len(names)
        vectors = np.concatenate([np.eye(count), np.ones((1, count))])
        if self.vectors is not None:
            vectors = np.array(self.vectors, "float64")
        if vectors.shape[1] != count or not -len(vectors) <= self.chosen < len(vectors):
            raise ValueError(
                f"ParetoMTL: {len(vectors)} vectors of {vectors.shape[1]} numbers, of which number "
                f"{self.chosen} is chosen, do not fit the {count} objectives {', '.join(names)}. "
                "Give each vector one number per objective, and `chosen` the index of a vector."
            )
        found = ops.convert_to_tensor(vectors.astype("float32")) * active[..., None, :]
        length = ops.sqrt(ops.sum(ops.square(found), axis=-1, keepdims=True))
        found = found / ops.where(length > 0, length, 1.0)
        index = self.chosen % len(vectors)
        # A vector of which nothing is left divides nothing.
        return ops.where(length > 0, found - found[..., index : index + 1, :], 0.0)


def _are_vectors(vectors: Any) -> bool:
    try:
        array = np.array(vectors, "float64")
    except (TypeError, ValueError):
        return False
    flat = array.ndim == 2 and isinstance(vectors, tuple) and isinstance(vectors[0], tuple)
    return flat and bool(np.isfinite(array).all() and (array >= 0).all() and array.any(-1).all())


def _first(active: Tensor, violated: Tensor) -> Tensor:
    """(..., T + K) bool: true for the objectives, which come before the constraints."""
    ones, zeros = ops.ones_like(active, dtype="bool"), ops.zeros_like(violated)
    return ops.concatenate([ones, zeros], axis=-1)


def _gramian_of(parts: Tensor, gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Gramian (..., N, N) of combinations (..., N, T) of rows; which are more than rounding."""
    # Not matmuls: accelerators may round their operands to fewer than 24 bits.
    products = ops.sum(parts[..., :, None, :] * gramian[..., None, :, :], axis=-1)
    found = ops.sum(parts[..., :, None, :] * products[..., None, :, :], axis=-1)
    norms = ops.sqrt(ops.maximum(ops.diagonal(gramian, axis1=-2, axis2=-1), 0.0))
    size = ops.sum(ops.abs(parts) * norms[..., None, :], axis=-1)
    square = ops.diagonal(found, axis1=-2, axis2=-1)
    return 0.5 * (found + ops.swapaxes(found, -1, -2)), square > 1e-5 * ops.square(size)
