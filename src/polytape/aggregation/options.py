"""What users choose beside the method, and whether the method can have it."""

from typing import get_args

from polytape.contract import Method
from polytape.engines import Measure
from polytape.evidence import kinds_of

PRIVATE = ("own", "weighted", "joint")
MEASURES = get_args(Measure)


def check_private(private: str) -> str:
    """The option itself, or an error that lists the choices."""
    if private not in PRIVATE:
        raise ValueError(
            f"`private` says what variables reached by one objective take: one of {PRIVATE}. "
            f"Received: {private!r}."
        )
    return private


def check_measure(measure: str, method: Method) -> Measure:
    """The option itself, or an error that says what to choose."""
    if measure not in MEASURES:
        raise ValueError(
            f"`measure` says where conflict between objectives is measured: one of {MEASURES}. "
            f"Received: {measure!r}."
        )
    if measure == "parameters":
        return "parameters"
    wanted = [f"one Gramian per {method.scope}"] if method.scope else []
    wanted += [kind.wants for kind in kinds_of(method) if kind.of_parameters]
    if wanted:
        raise ValueError(
            f"measure={measure!r} gives a method one Gramian for the whole model, and "
            f'{type(method).__name__} needs {wanted[0]}. Use measure="parameters".'
        )
    return measure  # type: ignore[return-value]
