"""What users choose beside the method, and whether the method can have it."""

from typing import get_args

from polytape.contract import Method, has_state, iter_methods
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


def check_examples(method: Method, measure: str = "parameters") -> None:
    """Raise unless a method can be asked how the examples of a batch compare."""
    if measure != "parameters":
        raise ValueError(
            "The gradients of single examples are compared by the parameters. Received: "
            f"measure={measure!r} beside `per`. Leave one of them out."
        )
    names = ("a", "b")
    others = [
        kind
        for kind in kinds_of(method)
        if kind.records or kind.second_forward or kind.initial(names) is not None
    ]
    parts = [part for part in iter_methods(method) if has_state(part, names)]
    if method.needs == "rows":
        why = "reads the gradients themselves, T rows as large as the parameters"
    elif others:
        why = f"compares {others[0].wants}" if others[0].wants else f"asks for {others[0].name!r}"
    elif parts:
        why = "keeps a state for each objective, and the examples of a batch are others each time"
        why = why if parts[0] is method else f"has {type(parts[0]).__name__} in it, which {why}"
    else:
        return
    raise ValueError(
        f"{type(method).__name__} {why}: it cannot combine the examples of a batch, as `per` asks. "
        'Choose a method of the Gramian without a state, such as "upgrad", "mgda", "cagrad" or '
        '"pcgrad"; or leave out `per`.'
    )
