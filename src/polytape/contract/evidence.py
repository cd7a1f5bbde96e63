"""What one training step knows about its objectives."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one training step knows about its T objectives.

    losses   (..., T)     float32, weighted values; zero where inactive
    gramian  (..., T, T)  inner products of the gradients over shared variables, units
                          loss^2 / parameter^2, zero rows and columns where inactive; None for
                          methods that need losses only
    active   (..., T)     bool; an inactive objective has no row this step (no label, or not
                          finite): the others are combined as if it did not exist
    names    T strings
    step     ()           int32, optimizer steps taken so far
    seed                  a `Seed` to hand to `keras.random` functions; fresh each step
    cross    (..., T, T)  inner products of the gradients on the first half of the batch with those
                          on the second: independent noise, not symmetric; None but for methods
                          that need "halves"
    traces   (..., T)     mean over some samples of the squared norm of the gradient of a sample's
                          residual, the root of its loss, over all variables, loss / parameter^2;
                          zero where inactive or not measured in this step; None but for methods
                          that need "samples"
    last     a `Look` for methods that take a second one, else None
    reach    (B, T)       bool NumPy array if the Gramian is a stack of B blocks that no scope has
                          claimed yet (then `losses` and `active` are (T,)); None otherwise
    compressed (..., T, T)  the gradients in T coordinates, rows F with F F^T the Gramian; zero
                          where that tells all there is; None for methods that do not ask for it
    blocks   names of the B blocks of a stack, in order; empty without a scope
    measures (..., V, T, k)  statistics of the rows in each of V variables; None but for methods
                          whose `observe` returns some
    """

    losses: Tensor
    gramian: Tensor | None
    active: Tensor
    names: tuple[str, ...]
    step: Tensor
    seed: "Seed"
    reach: np.ndarray | None = None
    cross: Tensor | None = None
    last: "Look | None" = None
    measures: Tensor | None = None
    traces: Tensor | None = None
    blocks: tuple[str, ...] = ()
    compressed: Tensor | None = None

    @property
    def turn(self) -> Tensor:
        """Whose turn it is, (T,) bool: all in step 0, then one after the other."""
        index = ops.arange(len(self.names), dtype="int32")
        step = ops.cast(self.step, "int32")
        return ops.logical_or(step == 0, ops.equal(index, ops.mod(step, len(self.names))))

    @property
    def count(self) -> Tensor:
        """Number of active objectives, (..., 1), float32, at least one."""
        return ops.maximum(ops.sum(ops.cast(self.active, "float32"), axis=-1, keepdims=True), 1.0)

    @property
    def norms(self) -> Tensor:
        """Gradient norm of each objective, (..., T)."""
        return ops.sqrt(ops.diagonal(self.gramian, axis1=-2, axis2=-1))

    def scaled(self, weights: Tensor) -> "Evidence":
        """The evidence of the objectives multiplied by `weights`, (..., T).

        One whose weight, weighted loss or squared norm is not finite is inactive from here on.
        """
        scaled = self._with_products(lambda g: g * weights[..., :, None] * weights[..., None, :])
        losses = self.losses
        if len(weights.shape) == len(losses.shape):
            losses = losses * weights
        traces = None if self.traces is None else self.traces * ops.abs(weights)
        sizes = [losses, weights]
        if scaled.gramian is not None:
            sizes.append(ops.diagonal(scaled.gramian, axis1=-2, axis2=-1))
        active = self.active
        for size in sizes:
            fine = ops.isfinite(size)
            if len(fine.shape) > len(active.shape):  # in every block
                fine = ops.all(fine, axis=0)
            active = ops.logical_and(active, fine)
        rows = None if self.compressed is None else self.compressed * weights[..., :, None]
        found = dataclasses.replace(scaled, losses=losses, traces=traces, compressed=rows)
        return found._among(active)

    def _among(self, active: Tensor) -> "Evidence":
        """The same with zeros for all but the `active` objectives, (..., T) bool."""
        both = ops.logical_and(active[..., :, None], active[..., None, :])
        rest = self._with_products(lambda products: ops.where(both, products, 0.0))
        losses = ops.where(active, self.losses, 0.0)
        traces = None if self.traces is None else ops.where(active, self.traces, 0.0)
        rows = self.compressed
        if rows is not None:
            rows = ops.where(active[..., :, None], rows, 0.0)
        return dataclasses.replace(
            rest, losses=losses, traces=traces, active=active, compressed=rows
        )

    def _with_products(self, change: Callable[[Tensor], Tensor]) -> "Evidence":
        gramian, cross = (
            None if products is None else change(products)
            for products in (self.gramian, self.cross)
        )
        return dataclasses.replace(self, gramian=gramian, cross=cross)

    def total(self) -> "Evidence":
        """One Gramian for the whole model instead of a stack of blocks."""
        if self.reach is None or self.gramian is None:
            return dataclasses.replace(self, reach=None)
        found = self._with_products(lambda products: ops.sum(products, axis=0))
        return dataclasses.replace(found, reach=None, compressed=None)

    def per_block(self) -> "Evidence":
        """Every block as a problem of its own: all arrays get the leading block axis."""
        if self.reach is None:
            return self
        active = ops.logical_and(self.active[None], ops.convert_to_tensor(self.reach, "bool"))
        losses = ops.where(active, self.losses[None], 0.0)
        return dataclasses.replace(self, losses=losses, active=active, reach=None)

    def reseeded(self, salt: int) -> "Evidence":
        """The same evidence with other random numbers, for the `salt`-th user of the seed."""
        return dataclasses.replace(self, seed=self.seed.shifted(salt)) if salt else self


class Look(NamedTuple):
    """The losses of one batch before and after the update that was made with it.

    before, after  (T,) float32, weighted; equal before the first step
    active         (T,) bool: whether the objective took part in that step
    """

    before: Tensor
    after: Tensor
    active: Tensor


class Seed(keras.random.SeedGenerator):
    """One drawn seed in a form that `keras.random` accepts: `keras.random.normal(..., seed=seed)`.

    Holds a (2,) integer tensor, or a function that works one out if it is needed, and, unlike its
    parent, no variable: the same seed draws the same numbers each time it is used, so whoever draws
    twice shifts it.
    """

    def __init__(self, value: Tensor | Callable[[], Tensor]) -> None:
        self._value = value

    def next(self, ordered: bool = True) -> Tensor:
        del ordered
        return self._value() if callable(self._value) else self._value

    def shifted(self, salt: int) -> "Seed":
        def value() -> Tensor:
            start = self.next()
            return start + ops.cast(salt * 7919, start.dtype)

        return Seed(value)
