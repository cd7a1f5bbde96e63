"""The gradients of both halves of the batch: two independent looks at the same objectives."""

from collections.abc import Sequence
from typing import ClassVar

from polytape.contract import Method, Products, Tensor, ops
from polytape.contract.arguments import numbers
from polytape.differentiation.replicated import place_in_batch, total
from polytape.differentiation.table import Table, mean_rows
from polytape.evidence.base import ComparedLoss, Kind, Measurement


class HalfBatches(Kind):
    """`evidence["cross"]`, (..., T, T): inner products of the gradients on the first half of the
    batch, in rows, with those on the second. Independent noise; not symmetric.

    The update is made of the gradients of the whole batch, the mean of the halves.
    """

    name: ClassVar[str] = "half_batches"
    key: ClassVar[str] = "cross"
    cost: ClassVar[str] = "F + 2 T B, two half batches"
    title: ClassVar[str] = "From two half batches"
    passes: ClassVar[str] = "2 T backward passes"
    wants: ClassVar[str] = "the gradients of two half batches"
    records: ClassVar[bool] = True
    of_parameters: ClassVar[bool] = True
    makes_rows: ClassVar[bool] = True

    def record(self, loss: ComparedLoss) -> list[Tensor]:
        return [loss.weighted(weights) for weights in _weights_of_halves(loss)]

    def rows(self, tables: Sequence[Table]) -> Table:
        return mean_rows(*tables)

    def measure(self, at: Measurement) -> Tensor | None:
        if at.gradients is None or at.blocks is None:  # not due in this step
            return None
        tables = at.gradients.parts.get(self.name)
        if tables is None:
            raise ValueError(
                f"This method compares {self.wants}, and these gradients are of whole ones. In a "
                "loop of your own let the objective function return a pair for each objective: "
                '{"name": (loss of one half, loss of the other)}.'
            )
        return at.gradients.products_of(tables[0], tables[1], at.blocks)

    def reading(self, value: Tensor) -> Products:
        return Products(value)

    def check_given(self, method: Method, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        if value is None:
            raise ValueError(
                f"{type(method).__name__} compares {self.wants}: give `cross`, their inner "
                "products J_1 @ J_2.T. Received: cross=None."
            )
        return numbers("cross", value, (*shape, shape[-1]), finite=True)


def _weights_of_halves(loss: ComparedLoss) -> list[Tensor]:
    """Sample weights that make the loss of a batch that of its first and of its second half."""
    outputs, given = loss.outputs, loss.sample_weight
    count = ops.shape(outputs)[0]
    before, whole = place_in_batch(count)
    first = ops.cast(ops.arange(count) < whole // 2 - before, "float32")
    found = []
    for half in (first, 1.0 - first):
        share = half * (ops.cast(whole, "float32") / ops.maximum(total(ops.sum(half)), 1.0))
        rank = max(len(outputs.shape) - 1, 1) if given is None else len(given.shape)
        share = ops.reshape(share, (-1,) + (1,) * (rank - 1))
        found.append(share if given is None else ops.multiply(share, given))
    return found
