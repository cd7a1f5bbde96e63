"""Gradients told apart where their Gramian cannot."""

from typing import Any, ClassVar

from polytape.contract import Coordinates, Fixed, Method, Reading, Tensor, ops
from polytape.contract.arguments import numbers
from polytape.engines import engine
from polytape.evidence.base import Kind, Measurement
from polytape.linalg.compressed import compressed_rows, dependent, mixing


class CompressedGradients(Kind):
    """`evidence["compressed"]`, (..., T, T): the gradients in T coordinates, rows F with F F^T the
    Gramian, where they are nearly dependent; zero where the Gramian tells all there is. Two more
    passes over the rows in these steps.
    """

    name: ClassVar[str] = "compressed_gradients"
    key: ClassVar[str] = "compressed"

    def measure(self, at: Measurement) -> Tensor | None:
        if at.gradients is None or at.blocks is None:  # weights of losses alone
            return None
        if not at.gradients.forms_rows:  # then the Gramian is all that is known
            return None
        gradients, gramian, blocks, active = at.gradients, at.gramian, at.blocks, at.active

        def measured() -> Tensor:
            mixed = mixing(gramian)
            products = gradients.mixed_gramians(blocks, mixed, active)
            return compressed_rows(gramian, mixed, products)

        near = engine().evaluated(dependent, gramian)
        pick = engine().choose if engine().replica_count() == 1 else engine().either
        return pick(near, measured, lambda: ops.zeros_like(gramian))

    def reading(self, value: Tensor) -> Reading:
        if ops.eager() and not value.any():  # they tell nothing, and need not be looked at
            return Fixed(None)
        return Coordinates(value)

    def check_given(self, method: Method, value: Any, shape: tuple[int, ...]) -> Any:
        del method
        return (
            None
            if value is None
            else numbers("compressed", value, (*shape, shape[-1]), finite=True)
        )
