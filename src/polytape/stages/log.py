"""Another method on the gradients of log-losses."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from polytape.contract import Evidence, Method, Need, Scale, State, Tensor, evaluate, ops
from polytape.stages.global_clip import refuse_rows


@dataclass(frozen=True)
class Log(Method):
    """Another method applied to the logarithms of the losses: LOG-MGDA is `Log(MGDA())`.

    Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, compares
    such variants of MGDA, CAGrad and IMTL-G. With a the inner method's weights of log L_i, whose
    gradients are g_i / L_i,

        w_i = (a_i / L_i) / c,    c = sum_j a_j / L_j.

    The division by c, which needs the weights that come after, is why this is no stage of a Chain.
    It also takes out any length that the inner method, its `scale` included, gives the update: the
    weights always add up to one.

    c is replaced by sum(|a_j / L_j|) / 100 where it is smaller: if weights of both signs cancel,
    the update stays finite and keeps its direction. If all a are zero, so is w.

    Degree 1 in the loss scale if no direction of the inner method depends on that scale. A loss of
    zero has no logarithm: its objective weighs zero in that step, as if inactive. A negative loss
    counts by its size. T = 1: one.

    Args:
        inner: the method that is wrapped
        scale: weights add up to one ("mean", as published), or by default ("sum") to the number of
            active objectives

    Example:
        >>> import polytape as pt
        >>> method = pt.Log(pt.MGDA(), scale="mean")
        >>> weights, _ = pt.weigh(method, [[1.0, 0.0], [0.0, 1.0]], losses=[1.0, 2.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['0.3333', '0.6667']
    """

    inner: Method
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Liu, Feng, Stone and Liu, NeurIPS 2023"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_rows(self, self.inner)
        if self.inner.scope is not None:
            raise ValueError(
                f"Log({type(self.inner).__name__}(...)): the weights of each "
                f"{self.inner.scope} must add up on their own. Put the scope outside, as in "
                "pt.PerVariable(pt.Log(pt.MGDA()))."
            )

    @property
    def needs(self) -> Need:  # type: ignore[override]
        return self.inner.needs

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return self.inner.init(names, blocks)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        size = ops.abs(evidence.losses)
        active = ops.logical_and(evidence.active, size > 0)
        size = ops.where(active, size, 3e38)
        # In units of the smallest loss, so that the products stay in range; c cancels the unit.
        smallest = ops.min(size, axis=-1, keepdims=True)
        inverse = ops.where(active, smallest / size, 0.0)
        logs = ops.where(active, ops.log(size), 0.0)
        seen = dataclasses.replace(evidence.scaled(inverse), losses=logs, active=active)
        inner, state = evaluate(self.inner, seen, state)
        weights = inner * inverse
        total = ops.sum(weights, axis=-1, keepdims=True)
        bound = 0.01 * ops.sum(ops.abs(weights), axis=-1, keepdims=True)
        total = ops.maximum(total, bound)
        return weights / ops.where(total > 0, total, 1.0), state
