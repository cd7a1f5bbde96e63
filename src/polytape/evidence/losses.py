"""The values of the losses: all that methods of one backward pass know."""

from typing import ClassVar

from polytape.evidence.base import Kind


class Losses(Kind):
    """`evidence.losses`, (..., T): every method has them, and some have nothing else."""

    name: ClassVar[str] = "losses"
    cost: ClassVar[str] = "F + B"
    title: ClassVar[str] = "From the losses alone"
    passes: ClassVar[str] = "one backward pass in all"
