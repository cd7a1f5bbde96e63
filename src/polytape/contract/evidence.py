"""What one training step knows about its objectives."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from polytape.contract import ops
from polytape.contract.readings import Reading, Tensor


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one training step knows about its T objectives.

    Attributes:
        losses: (..., T) float32, weighted values; zero where inactive
        gramian: (..., T, T) inner products of the gradients over shared variables, units loss^2 /
            parameter^2, zero rows and columns where inactive; None for methods that need losses
            only
        active: (..., T) bool; an inactive objective has no row this step (no label, or not finite):
            the others are combined as if it did not exist
        names: T strings
        step: () int32, optimizer steps taken so far
        seed: a `Seed` to hand to `keras.random` functions; fresh each step
        reach: (B, T) bool NumPy array if the Gramian is a stack of B blocks that no scope has
            claimed yet (then `losses` and `active` are (T,)); None otherwise
        blocks: names of the B blocks of a stack, in order; empty without a scope
        readings: {key: `Reading`} what the kinds of evidence have measured that the method asks for
            in `Method.evidence`; `evidence["traces"]` is the value of one, and
            `evidence.get("last")` None where there is none
    """

    losses: Tensor
    gramian: Tensor | None
    active: Tensor
    names: tuple[str, ...]
    step: Tensor
    seed: "Seed"
    reach: np.ndarray | None = None
    blocks: tuple[str, ...] = ()
    readings: Mapping[str, Reading] = dataclasses.field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        if key not in self.readings:
            raise KeyError(
                f"There is no {key!r} in the evidence of this step. A method gets what it names in "
                f"`evidence`. Here: {', '.join(map(repr, self.readings)) or 'nothing beyond'}."
            )
        return self.readings[key].value

    def get(self, key: str) -> Any:
        """The value of a reading; None if there is none.

        Args:
            key: of the reading, such as "traces"

        Returns:
            The value, or None.
        """
        return self.readings[key].value if key in self.readings else None

    @property
    def turn(self) -> Tensor:
        """Whose turn it is, (T,) bool: all in step 0, then one after the other."""
        return turn_of(self.step, len(self.names))

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

        Args:
            weights: (..., T)

        Returns:
            Evidence of the same shapes.
        """
        gramian, losses = self.gramian, self.losses
        sizes = [weights]
        if gramian is not None:
            gramian = gramian * weights[..., :, None] * weights[..., None, :]
            sizes.append(ops.diagonal(gramian, axis1=-2, axis2=-1))
        if len(weights.shape) == len(losses.shape):
            losses = losses * weights
        sizes.append(losses)
        active = self.active
        for size in sizes:
            fine = ops.isfinite(size)
            if len(fine.shape) > len(active.shape):  # in every block
                fine = ops.all(fine, axis=0)
            active = ops.logical_and(active, fine)
        readings = {key: reading.scaled(weights) for key, reading in self.readings.items()}
        found = dataclasses.replace(self, losses=losses, gramian=gramian, readings=readings)
        return found._among(active)

    def _among(self, active: Tensor) -> "Evidence":
        """The same with zeros for all but the `active` objectives, (..., T) bool."""
        gramian = self.gramian
        if gramian is not None:
            gramian = ops.where(_both(active), gramian, 0.0)
        losses = ops.where(active, self.losses, 0.0)
        readings = {key: reading.among(active) for key, reading in self.readings.items()}
        return dataclasses.replace(
            self, losses=losses, gramian=gramian, active=active, readings=readings
        )

    def total(self) -> "Evidence":
        """One Gramian for the whole model instead of a stack of blocks.

        Returns:
            Evidence with a Gramian (T, T), the sum of the blocks.
        """
        if self.reach is None:
            return self
        if self.gramian is None:
            return dataclasses.replace(self, reach=None)
        found = {key: reading.total() for key, reading in self.readings.items()}
        readings = {key: reading for key, reading in found.items() if reading is not None}
        gramian = ops.sum(self.gramian, axis=0)
        return dataclasses.replace(self, gramian=gramian, reach=None, readings=readings)

    def per_block(self) -> "Evidence":
        """Every block as a problem of its own: all arrays get the leading block axis.

        Returns:
            Evidence with arrays (B, T), and a Gramian (B, T, T).
        """
        if self.reach is None:
            return self
        active = ops.logical_and(self.active[None], ops.convert_to_tensor(self.reach, "bool"))
        losses = ops.where(active, self.losses[None], 0.0)
        return dataclasses.replace(self, losses=losses, active=active, reach=None)

    def reseeded(self, salt: int) -> "Evidence":
        """The same evidence with other random numbers, for the `salt`-th user of the seed.

        Args:
            salt: which user of the seed it is for

        Returns:
            Evidence that differs in its seed.
        """
        return dataclasses.replace(self, seed=self.seed.shifted(salt)) if salt else self


def _both(active: Tensor) -> Tensor:
    """(..., T, T): whether both of two objectives are active."""
    return ops.logical_and(active[..., :, None], active[..., None, :])


def turn_of(step: Tensor, count: int) -> Tensor:
    """Whose turn it is of `count` objectives, (count,) bool: all in step 0, then one by one."""
    index, step = ops.arange(count, dtype="int32"), ops.cast(step, "int32")
    return ops.logical_or(step == 0, ops.equal(index, ops.mod(step, count)))


class LossesBeforeAfter(NamedTuple):
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
