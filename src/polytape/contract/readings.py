"""What a kind of evidence has measured, and what becomes of it when objectives are weighted."""

from dataclasses import dataclass
from typing import Any, Protocol

from polytape.contract import ops
from polytape.contract.types import Tensor


class Reading(Protocol):
    """A value, and how it follows the objectives that it is of."""

    @property
    def value(self) -> Any:
        """A tensor, or a nest of them."""
        ...

    def scaled(self, weights: Tensor) -> "Reading":
        """That of the objectives multiplied by `weights`, (..., T)."""
        ...

    def among(self, active: Tensor) -> "Reading":
        """The same with zeros for all but the `active` objectives, (..., T) bool."""
        ...

    def total(self) -> "Reading | None":
        """That of the whole model instead of a stack of B blocks; None if there is none."""
        ...


@dataclass(frozen=True)
class PerObjective:
    """A number for each objective, (..., T), of degree 1 in its loss.

    unsigned  whether it stays as it is where the sign of the loss changes
    """

    value: Tensor
    unsigned: bool = False

    def scaled(self, weights: Tensor) -> "PerObjective":
        factors = ops.abs(weights) if self.unsigned else weights
        return PerObjective(self.value * factors, self.unsigned)

    def among(self, active: Tensor) -> "PerObjective":
        return PerObjective(ops.where(active, self.value, 0.0), self.unsigned)

    def total(self) -> "PerObjective":
        return self


@dataclass(frozen=True)
class Products:
    """Inner products of gradients, (..., T, T), as a Gramian is of."""

    value: Tensor

    def scaled(self, weights: Tensor) -> "Products":
        return Products(self.value * weights[..., :, None] * weights[..., None, :])

    def among(self, active: Tensor) -> "Products":
        both = ops.logical_and(active[..., :, None], active[..., None, :])
        return Products(ops.where(both, self.value, 0.0))

    def total(self) -> "Products":
        return Products(ops.sum(self.value, axis=0))


@dataclass(frozen=True)
class Coordinates:
    """Gradients in some coordinates, (..., T, k), whose Gramian is that of the evidence."""

    value: Tensor

    def scaled(self, weights: Tensor) -> "Coordinates":
        return Coordinates(self.value * weights[..., :, None])

    def among(self, active: Tensor) -> "Coordinates":
        return Coordinates(ops.where(active[..., :, None], self.value, 0.0))

    def total(self) -> None:
        return None  # each block has coordinates of its own


@dataclass(frozen=True)
class Fixed:
    """What does not depend on the weights of the objectives."""

    value: Any

    def scaled(self, weights: Tensor) -> "Fixed":
        del weights
        return self

    def among(self, active: Tensor) -> "Fixed":
        del active
        return self

    def total(self) -> "Fixed":
        return self
