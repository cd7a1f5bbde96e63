"""The ideal point: losses that cannot be beaten, from which a scalarization measures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polytape.contract import Evidence, Preference, Range, Tensor, ops


@dataclass(frozen=True)
class Point(Preference):
    """One finite number per objective, or None for the origin."""

    def admits(self, value: Any) -> bool:
        if value is None:
            return True
        finite = Range(open="low high")
        return isinstance(value, tuple) and bool(value) and all(finite.admits(v) for v in value)

    def inadmissible(self) -> Iterator[Any]:
        yield from ((), (float("nan"), 0.0), (float("inf"),), ("0",), 0.5, "zero")

    def __str__(self) -> str:
        return "a tuple of finite numbers, one per objective, or None"


def above(evidence: Evidence, ideal: tuple[float, ...] | None) -> Tensor:
    """Losses minus the ideal point, (..., T); zero where inactive.

    ValueError if the point has not one entry per objective.
    """
    if ideal is None:
        return evidence.losses
    if len(ideal) != len(evidence.names):
        raise ValueError(
            f"`ideal` needs one entry per objective. Received: {ideal!r} of length {len(ideal)} "
            f"for the {len(evidence.names)} objectives {', '.join(evidence.names)}. Give the "
            "entries in this order."
        )
    point = ops.convert_to_tensor(ideal, dtype="float32")
    return ops.where(evidence.active, evidence.losses - point, 0.0)
