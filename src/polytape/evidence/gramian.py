"""The inner products of the gradients."""

from collections.abc import Sequence
from typing import ClassVar

from polytape.contract import Method
from polytape.evidence.base import Kind


class Gramian(Kind):
    """`evidence.gramian`, (..., T, T): for methods that need "gramian" or "rows"."""

    name: ClassVar[str] = "gramian"
    cost: ClassVar[str] = "F + T B"
    title: ClassVar[str] = "From the gradients' inner products"
    passes: ClassVar[str] = "T backward passes"
    wants: ClassVar[str] = "gradients"

    @classmethod
    def of(cls, methods: Sequence[Method]) -> "Gramian | None":
        return cls() if methods[0].needs == "gramian" else None
