"""The gradients themselves, coordinate by coordinate."""

from typing import ClassVar

from polytape.evidence.base import Kind


class Rows(Kind):
    """The rows that `Method.combine` gets: for methods that need "rows"."""

    name: ClassVar[str] = "rows"
    cost: ClassVar[str] = "F + T B, rows"
    title: ClassVar[str] = "From the gradients themselves"
    passes: ClassVar[str] = "T backward passes, then each variable's rows"
    wants: ClassVar[str] = "the gradients by the parameters, coordinate by coordinate"
    of_parameters: ClassVar[bool] = True
