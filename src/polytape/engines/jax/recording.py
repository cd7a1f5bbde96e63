"""Recordings: one linearization inside the jitted train function, transposed per objective."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from polytape.engines.contract import (
    Forward,
    InLoop,
    Marked,
    Recording,
    Scalars,
    Tensor,
    Variable,
    Way,
)
from polytape.engines.jax.gradients import Stacked
from polytape.engines.jax.layouts import is_spread
from polytape.engines.jax.linearized import Linearized
from polytape.engines.jax.scope import Scope
from polytape.engines.marking import Marker, listening

# In the oldest versions in another place, and with an argument that none of them reads.
_of_extensions = getattr(jax.extend.core, "get_opaque_trace_state", None)
_trace_state: Any = _of_extensions or jax.core.get_opaque_trace_state


def _probes(
    forward: Forward, measure: Marked, stand_ins: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """A zero to be added to each marked tensor, so that there is something to differentiate by.

    The same for each stand-in, if they are wanted. The shapes come from an abstract evaluation,
    whose effects are forgotten.
    """
    marked: list[jax.ShapeDtypeStruct] = []
    losses: list[jax.ShapeDtypeStruct] = []

    def noting(found: list[jax.ShapeDtypeStruct]) -> Marker:
        def note(tensor: Tensor) -> Tensor:
            found.append(jax.ShapeDtypeStruct(tensor.shape, tensor.dtype))
            return tensor

        return note

    def run() -> None:
        with Scope(), listening(measure, noting(marked), noting(losses) if stand_ins else None):
            forward()

    jax.eval_shape(run)
    zeros = [[jnp.zeros(each.shape, each.dtype) for each in found] for found in (marked, losses)]
    return zeros[0], zeros[1]


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Marked = "parameters",
    stand_ins: bool = False,
) -> Linearized:
    known = variables()
    marks: list[Tensor] = []
    losses: list[Tensor] = []
    if stand_ins or measure != "parameters":
        marks, losses = _probes(forward, measure, stand_ins)

    def function(values: list[Tensor]) -> tuple[Scalars, Any]:
        start = len(known) + len(marks)
        of_marks, of_losses = iter(values[len(known) : start]), iter(values[start:])

        def mark(tensor: Tensor) -> Tensor:
            return tensor + next(of_marks)

        def stand_in(tensor: Tensor) -> Tensor:
            return tensor + next(of_losses)

        with listening(measure, mark, stand_in if stand_ins else None):
            return forward()

    values = [*(variable.value for variable in known), *marks, *losses]
    return Linearized(function, values, known, measure, len(losses))


# From so many objectives on. A turn of a loop costs what a backward pass costs: what it saves is
# programme, which is little where there are few objectives.
LOOP_FROM = 16


def way_of(recording: Recording, scalars: Sequence[int]) -> Way:
    # Eager, a loop would be compiled anew at every call.
    if not isinstance(recording, Linearized) or len(scalars) < LOOP_FROM or is_spread():
        return "unrolled"
    traced = all(isinstance(recording.scalars[each], jax.core.Tracer) for each in scalars)
    flat = all(recording.scalars[each].shape == () for each in scalars)
    fits = traced and flat and recording.loop_pays(scalars)
    return "looped" if fits else "unrolled"


def in_loop(
    recording: Recording, scalars: Sequence[int], seed: Tensor, variables: Sequence[int]
) -> InLoop:
    if not isinstance(recording, Linearized):
        raise TypeError("way_of() says that every backward pass is written down.")
    found = recording.pieces(scalars, seed)
    table: list[list[Tensor | None]] = [[None] * len(found) for _ in scalars]
    rows = {}
    for variable in variables:
        piece = found[variable]
        if piece is None:
            continue
        for place, scalar in enumerate(piece.losses):
            table[scalars.index(scalar)][variable] = piece.values[place]
        if len(piece.losses) == len(scalars):
            rows[variable] = Stacked(piece.values)
    return InLoop(table, rows)


def context(used: Sequence[Tensor | Variable] = ()) -> Any:
    del used  # what is differentiated is a function
    return _trace_state(convention=None)


def parameters(module: Any) -> None:
    del module
    return  # JAX has no modules


def trains(source: Any) -> None:
    del source
    return  # nor variables: only those of Keras


def tape(persistent: bool, watch_accessed_variables: bool) -> None:
    del persistent, watch_accessed_variables  # what is to be differentiated must be a function


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    recording = Linearized(lambda values: ([function(values)], None), at)
    return recording.vjp({0: 1.0}, recording.marks)


def pullbacks(
    function: Callable[[list[Tensor]], Sequence[Tensor]],
    at: Sequence[Tensor],
    cotangents: Sequence[Sequence[Tensor]],
) -> list[list[Tensor | None]]:
    outputs, pull = jax.vjp(lambda values: list(function(values)), list(at))
    return [
        list(pull([seed.astype(out.dtype) for seed, out in zip(seeds, outputs, strict=True)])[0])
        for seeds in cotangents
    ]


def jacobian(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    return list(jax.jacrev(function)(list(at)))
