"""Directions for weights that are known beforehand: one backward pass, or one per finite term."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from polytape.contract import Tensor
from polytape.engines import Recording, engine

# {scalar: cotangent} and the variables that this combination of the scalars moves. No two parts
# have a variable in common.
Parts = Sequence[tuple[dict[int, Tensor], Sequence[int]]]
Directions = list[Tensor | None]  # by variable; None where nothing reaches it


def at_once(
    recording: Recording, parts: Parts, count: int, last: bool = False, sparse: bool = False
) -> Directions:
    """The directions of `count` variables, one backward pass per part.

    last    whether nothing is differentiated afterwards
    sparse  whether they may be sparse where optimizers take dense ones only
    """
    directions: Directions = [None] * count
    for place, (cotangents, variables) in enumerate(parts, start=1):
        if variables:
            found = recording.vjp(cotangents, variables, last and place == len(parts), sparse)
            for variable, gradient in zip(variables, found, strict=True):
                directions[variable] = gradient
    return directions


def term_by_term(
    recording: Recording, parts: Parts, taken: dict[int, Tensor], like: Directions
) -> tuple[dict[int, Tensor], Directions]:
    """The sum of the terms that are finite, and which these are. They are differentiated in turn.

    taken  {scalar: () bool}: terms that come into question
    like   directions of the same structure
    """
    present = [v for v, gradient in enumerate(like) if gradient is not None]
    totals = [engine().zeros_like(like[v]) for v in present]
    taken = dict(taken)
    for term in taken:
        own = [({term: c[term]}, variables) for c, variables in parts if term in c]

        def add(own: Parts = own, totals: Any = totals) -> Any:
            found = at_once(recording, own, len(like))
            fine = engine().in_range([gradient for gradient in found if gradient is not None])
            return fine, [
                total if found[v] is None else engine().add_where(total, fine, found[v])
                for v, total in zip(present, totals, strict=True)
            ]

        def skip(totals: Any = totals) -> Any:
            return ops.zeros((), dtype="bool"), totals

        taken[term], totals = engine().either(taken[term], add, skip)
    summed = dict(zip(present, totals, strict=True))
    return taken, [summed.get(v) for v in range(len(like))]
