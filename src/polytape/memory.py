"""Methods that see the rows before they are weighed, and keep arrays as large beside them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Evidence, Method, State, Tensor
from polytape.engines import engine
from polytape.jacobian import Gradients

Matrices = dict[int, Tensor]  # {shared variable: its rows (T, n), float32}
Memory = list[dict[str, Tensor]]  # for each variable {name: (T, n)}


def empty_memory(method: Method, count: int, sizes: Sequence[int]) -> State:
    """The arrays of `method.memory` before the first step.

    For every variable, private ones included: which are shared is known only when the first step
    has been traced, and on JAX all state must exist by then.
    """
    names = method.memory or ()
    return [{name: np.zeros((count, size), "float32") for name in names} for size in sizes]


def matrices(gradients: Gradients) -> Matrices:
    """The rows of the shared variables, dense and unscaled; zero where there is no path."""
    found = {}
    unscale = 1.0 / gradients.scale
    for v in gradients.connectivity.shared:
        rows = [gradients[name][v] for name in gradients.losses]
        known = [None if row is None else ops.reshape(engine().dense(row), (-1,)) for row in rows]
        zero = ops.zeros_like(next(row for row in known if row is not None))
        found[v] = unscale * ops.stack([zero if row is None else row for row in known])
    return found


def finite(gradients: Gradients, rows: Matrices) -> Tensor:
    """(T,) bool: whether loss, gradient and the squares of its entries are finite."""
    squares = [ops.sum(ops.square(matrix), axis=1) for matrix in rows.values()]
    count = len(gradients.losses)
    total = ops.sum(ops.stack(squares), axis=0) if squares else ops.zeros((count,))
    return gradients.finite(ops.diag(total))


class Sight(NamedTuple):
    """What a method made of the rows of all variables.

    raw            the gradients as they were;  gradients  with the rows that it returned instead
    active         (T,) bool: objectives whose rows it has seen
    measures       (V, T, k) or None
    before, after  memory;  offsets  {variable: (n,)}
    """

    raw: Gradients
    gradients: Gradients
    active: Tensor
    measures: Tensor | None
    before: Memory
    after: Memory
    offsets: dict[int, Tensor]

    def kept(self, active: Tensor) -> Memory:
        """The memory to go on with: that of inactive objectives stays as it was."""
        return [
            {name: ops.where(active[:, None], new[name], old[name]) for name in old}
            for old, new in zip(self.before, self.after, strict=True)
        ]

    def moved(self, directions: list[Tensor | None]) -> list[Tensor | None]:
        """Directions with their offsets, in the type of the gradients."""
        found = list(directions)
        names = list(self.raw.losses)
        for v in self.raw.connectivity.shared:
            like = self.raw[names[self.raw.connectivity.objectives(v)[0]]][v]
            if v in self.offsets:
                offset = ops.reshape(self.offsets[v] * self.raw.scale, like.shape)
                found[v] = ops.add(found[v], offset)
            found[v] = ops.cast(found[v], like.dtype)
        return found


def observe(
    method: Method,
    gradients: Gradients,
    rows: Matrices,
    evidence: Evidence,
    memory: Memory,
    state: State,
) -> Sight:
    """Show a method its rows, variable by variable; those of inactive objectives as zero."""
    active = evidence.active[:, None]
    table = [list(gradients[name]) for name in gradients.losses]
    after, offsets, measures = list(memory), {}, []
    for v, matrix in rows.items():
        seen = method.observe(ops.where(active, matrix, 0.0), memory[v], evidence, state)
        after[v] = seen.memory
        measures.append(seen.measures)
        if seen.offset is not None:
            offsets[v] = seen.offset
        taken = ops.where(active, seen.rows, 0.0) * gradients.scale
        for t in gradients.connectivity.objectives(v):
            table[t][v] = ops.reshape(taken[t], table[t][v].shape)
    if not rows:  # nothing is shared: statistics of nothing
        nothing = ops.zeros((len(table), 1))
        arrays = dict.fromkeys(method.memory or (), nothing)
        measures.append(method.observe(nothing, arrays, evidence, state).measures)
    stacked = None if measures[0] is None else ops.stack(measures)
    return Sight(
        gradients, gradients.replaced(table), evidence.active, stacked, memory, after, offsets
    )
