"""NTK weights: every residual learns at one rate, by the trace of its neural tangent kernel."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from polytape.contract import (
    Evidence,
    Integer,
    Method,
    Need,
    OneOf,
    Range,
    Scale,
    State,
    Tensor,
    ops,
)
from polytape.linalg.reciprocal import reciprocal


@dataclass(frozen=True)
class NTK(Method):
    """Weights by the neural tangent kernel: the inverse of how fast each residual learns.

    Wang, Yu and Perdikaris, "When and Why PINNs Fail to Train: A Neural Tangent Kernel
    Perspective", J. Comput. Phys. 449, 2022, Algorithm 1. With r_n the residual of sample n, the
    root of its loss, and c_i = mean_n |d r_n / d theta|^2 over all variables, the trace of the
    kernel of objective i per sample,

        w_i = mean_j(c_j) / c_i.

    The weights multiply the losses, so they reach private variables too. r is the paper's residual
    where the loss is its square, one number per sample. Of several outputs, or points, of a sample
    it is the root of their mean square, whose trace counts only what moves that root: less than the
    sum over outputs. Of any other positive loss it is the quantity with the same gradient flow,
    dr/dt = -K r up to a factor that all objectives have in common; a negative loss counts by its
    size. Loss weights, sample weights and masks are part of r. A sample without a loss has none to
    lose: it counts zero.

    Weights: positive. Degree 1 in the loss scale; multiplying a single loss by a positive number
    changes the length of the update only. Equal traces: equal weights. Opposed gradients: as their
    lengths decide. A zero row has no trace: it is left out of the mean and keeps weight one, as do
    all before the first measurement. T = 1: one. An objective whose trace is not measured, being
    inactive, without a label in the samples or not finite, keeps its last one. Traces below the
    normal range of float32 count as none.

    Args:
        samples: that are measured, the first ones of the batch; 32, ours. Shuffle the data
        steps: the traces are measured in one step out of this many; 1000, as in jaxpi and NVIDIA
            PhysicsNeMo. Such a step costs T backward passes for each sample, the others one in all
        decay: share of the past in a moving average of the traces; 0, none, as in the paper. jaxpi
            averages the weights
        target: "mean" of the traces (default; jaxpi) or their "sum" (the paper; T times as long)
        scale: "sum": with the target "mean", weights of equal traces are one each; with the target
            "sum", T each

    Example:
        >>> import polytape as pt
        >>> weights, state = pt.weigh(pt.NTK(), losses=[1.0, 1.0], traces=[1.0, 9.0])
        >>> [f"{float(w):.4f}" for w in weights]
        ['5.0000', '0.5556']
        >>> weights, state = pt.weigh(pt.NTK(), losses=[1.0, 1.0], traces=[0.0, 0.0], state=state)
        >>> [f"{float(w):.4f}" for w in weights]
        ['5.0000', '0.5556']
    """

    samples: Annotated[int, Integer(1)] = 32  # type: ignore[assignment]
    steps: Annotated[int, Integer(1)] = 1000
    decay: Annotated[float, Range(0.0, 1.0, open="high")] = 0.0
    target: Annotated[str, OneOf(("mean", "sum"))] = "mean"
    scale: Scale = "sum"

    needs: ClassVar[Need] = "losses"
    evidence: ClassVar[tuple[str, ...]] = ("sample_traces",)
    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "Wang, Yu and Perdikaris, J. Comput. Phys. 449, 2022"
    guarantees: ClassVar[frozenset[str]] = frozenset({"impartial", "permutation", "scale-free"})

    @property
    def period(self) -> int:
        return self.steps

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"traces": np.zeros((*blocks, len(names)), "float32")}  # averages, zero if unknown

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        known = state["traces"]
        fresh = evidence["traces"] * ops.ones_like(known)
        last = ops.where(known > 0, known, fresh)
        averages = self.decay * last + (1.0 - self.decay) * fresh
        measured = ops.logical_and(evidence.active, fresh > 0)
        traces = ops.where(measured, averages, known)
        inverse = reciprocal(ops.where(evidence.active, traces, 0.0))
        alive = inverse > 0
        total = ops.sum(ops.where(alive, traces, 0.0), axis=-1, keepdims=True)
        if self.target == "mean":
            total = total / ops.maximum(ops.sum(ops.cast(alive, "float32"), -1, keepdims=True), 1.0)
        # Divided directly: an inverse may fall below the normal range.
        weights = ops.minimum(total / ops.where(alive, traces, 1.0), 1e30)
        return ops.where(alive, weights, 1.0), {"traces": traces}
