"""The inner products of the gradients."""

from typing import ClassVar

from polytape.evidence.base import Kind


class Gramian(Kind):
    """`evidence.gramian`, (..., T, T): for methods that need "gramian" or "rows"."""

    name: ClassVar[str] = "gramian"
    cost: ClassVar[str] = "F + T B"
    title: ClassVar[str] = "From the gradients' inner products"
    passes: ClassVar[str] = "T backward passes"
    wants: ClassVar[str] = "gradients"
