"""Recordings: one linearization inside the jitted train function, transposed per objective."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from polytape.engines.contract import Forward, Measure, Tensor, Variable
from polytape.engines.jax.linearized import Linearized
from polytape.engines.jax.scope import Scope
from polytape.engines.marking import listening


def _probes(forward: Forward, measure: Measure) -> list[Tensor]:
    """A zero to be added to each marked tensor, so that there is something to differentiate by.

    The shapes come from an abstract evaluation, whose effects are forgotten.
    """
    marked: list[jax.ShapeDtypeStruct] = []

    def note(tensor: Tensor) -> Tensor:
        marked.append(jax.ShapeDtypeStruct(tensor.shape, tensor.dtype))
        return tensor

    def run() -> None:
        with Scope(), listening(measure, note):
            forward()

    jax.eval_shape(run)
    return [jnp.zeros(found.shape, found.dtype) for found in marked]


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Measure = "parameters",
) -> Linearized:
    known = variables()
    probes = [] if measure == "parameters" else _probes(forward, measure)

    def function(values: list[Tensor]) -> tuple[Sequence[Tensor], Any]:
        rest = iter(values[len(known) :])
        with listening(measure, lambda tensor: tensor + next(rest)):
            return forward()

    values = [*(variable.value for variable in known), *probes]
    return Linearized(function, values, known, measure)


def parameters(module: Any) -> None:
    del module
    return  # JAX has no modules


def trains(source: Any) -> None:
    del source
    return  # nor variables: only those of Keras


def tape() -> None:
    return None  # what is to be differentiated must be a function


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    recording = Linearized(lambda values: ([function(values)], None), at)
    return recording.pull({0: 1.0}, recording.marks)
