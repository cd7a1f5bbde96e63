"""One objective differentiated per step, in turn."""

from typing import ClassVar

from polytape.evidence.base import Kind


class RoundRobin(Kind):
    """`evidence.turn`, (T,) bool: after the first step the gradient of one objective only, the
    others' rows zero. One backward pass; private variables count as shared.
    """

    name: ClassVar[str] = "round_robin"
    cost: ClassVar[str] = "F + B, one objective in turn"
