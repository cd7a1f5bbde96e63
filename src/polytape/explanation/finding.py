"""What is wrong with a gradient, as plain data."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "outside the record",
    "not connected",
    "cut",
    "frozen",
    "untracked",
    "no label",
    "masked",
    "saturated",
    "at a minimum",
    "cancelled",
    "underflow",
    "wrong numbers",
    "not finite",
    "unknown",
]


@dataclass(frozen=True)
class Finding:
    """Why an objective has no gradient, a zero one or one that is not finite, in a network.

    Args:
        objective: its name; "" if it concerns all
        network: its name; "" if it concerns all
        kind: which of the causes that `docs/why-is-it-not-learning.md` lists
        text: what was found, in a sentence without its end
        remedy: what to do about it
        operation: where the gradient ends, as "argmax"
        layer: path of the Keras layer in which that is called, "" outside of all
        line: of the user's program, as "model.py:31: h = ops.argmax(x)", if there is one
        variables: paths of those concerned
        share: of the units that are concerned, from 0 to 1; None where that has no meaning
    """

    objective: str
    network: str
    kind: Kind
    text: str
    remedy: str
    operation: str = ""
    layer: str = ""
    line: str = ""
    variables: tuple[str, ...] = ()
    share: float | None = None

    @property
    def where(self) -> str:
        """Layer and line in words; "" if neither is known."""
        parts = [f"in layer {self.layer!r}"] if self.layer else []
        parts += [f"at {self.line}"] if self.line else []
        return ", ".join(parts)

    @property
    def told(self) -> str:
        """What was found, and where."""
        return ", ".join(filter(None, [self.text, self.where])) + "."

    def __str__(self) -> str:
        return f"{self.told} {self.remedy}".strip()

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON.

        Returns:
            {field: value}
        """
        return {**asdict(self), "where": self.where}
