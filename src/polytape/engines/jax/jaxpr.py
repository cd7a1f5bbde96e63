"""Linear jaxprs: which output depends on which input, and what one output takes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


def dependencies(jaxpr: Any) -> np.ndarray:
    """(outputs, inputs) bool: whether a path of equations leads from the input to the output.

    Tangents that are zero by structure (stop_gradient, argmax, comparisons, casts to integers) do
    not appear in the jaxpr of a linearized function, so a path here is a differentiable path.
    """
    count = len(jaxpr.invars)
    sources = [np.arange(count) == index for index in range(count)]
    return np.array(_outputs(jaxpr, sources), bool).reshape(len(jaxpr.outvars), count)


def only(closed: Any, outputs: Sequence[int]) -> Callable[..., Any]:
    """Some outputs of a closed jaxpr as a function of its inputs: nothing else is evaluated.

    Tracing the whole of it for each of T outputs would take T times T.
    """
    jaxpr = closed.jaxpr
    chosen = [jaxpr.outvars[index] for index in outputs]
    needed = {atom for atom in chosen if is_variable(atom)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            equations.append(equation)
            needed.update(atom for atom in equation.invars if is_variable(atom))
    # As many outputs as before, which are described elsewhere in the jaxpr.
    found = [atom if index in outputs else chosen[0] for index, atom in enumerate(jaxpr.outvars)]
    pruned = jaxpr.replace(eqns=equations[::-1], outvars=found)
    run = jaxpr_as_fun(ClosedJaxpr(pruned, closed.consts))

    def function(*inputs: Any) -> list[Any]:
        every = run(*inputs)
        return [every[index] for index in outputs]

    return function


def _outputs(jaxpr: Any, sources: list[np.ndarray]) -> list[np.ndarray]:
    """The inputs that each output depends on, given those that each invar stands for."""
    nothing = np.zeros_like(sources[0]) if sources else np.zeros(0, bool)
    known: dict[Any, np.ndarray] = dict(zip(jaxpr.invars, sources, strict=True))

    def of(atom: Any) -> np.ndarray:
        is_literal = not is_variable(atom)
        return nothing if is_literal else known.get(atom, nothing)

    for equation in jaxpr.eqns:
        inputs = [of(atom) for atom in equation.invars]
        for variable, found in zip(equation.outvars, _through(equation, inputs), strict=True):
            known[variable] = found
    return [of(atom) for atom in jaxpr.outvars]


def is_variable(atom: Any) -> bool:
    """Whether it is no literal."""
    return "val" not in dir(atom)  # literals carry their value


def _through(equation: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Dependencies of an equation's outputs; exact inside calls and loops, else all on all."""
    name, outputs = equation.primitive.name, len(equation.outvars)
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)  # closed or open
    if name == "scan":
        return _through_scan(equation.params, inner, inputs)
    fits = inner is not None and (len(inner.invars), len(inner.outvars)) == (len(inputs), outputs)
    if fits and name != "while":
        return _outputs(inner, inputs)
    everything = np.any(inputs, axis=0) if inputs else np.zeros(0, bool)
    return [everything] * outputs


def _through_scan(params: Any, body: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    consts, carried = params["num_consts"], params["num_carry"]
    carry = inputs[consts : consts + carried]
    while True:  # a carry can only gain dependencies, so this ends
        found = _outputs(body, inputs[:consts] + carry + inputs[consts + carried :])
        grown = [old | new for old, new in zip(carry, found[:carried], strict=True)]
        if all(np.array_equal(old, new) for old, new in zip(carry, grown, strict=True)):
            return grown + found[carried:]
        carry = grown
