"""The values of the losses: all that methods of one backward pass know."""

from collections.abc import Sequence
from typing import ClassVar

from polytape.contract import Method
from polytape.evidence.base import Kind


class Losses(Kind):
    """`evidence.losses`, (..., T): every method has them, and some have nothing else."""

    name: ClassVar[str] = "losses"
    cost: ClassVar[str] = "F + B"
    title: ClassVar[str] = "From the losses alone"
    passes: ClassVar[str] = "one backward pass in all"

    @classmethod
    def of(cls, methods: Sequence[Method]) -> "Losses | None":
        return cls() if methods[0].needs == "losses" else None
