"""Methods that see the rows before they are weighed, and keep arrays as large beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from polytape.contract import (
    Evidence,
    Method,
    Reading,
    Seed,
    State,
    Tensor,
    evaluate,
    iter_methods,
    ops,
)
from polytape.differentiation.jacobian import Jacobian
from polytape.engines import engine
from polytape.evidence.base import Kind

Matrices = dict[int, Tensor]  # {shared variable: its rows (T, n), float32}
Memory = list[dict[str, Tensor]]  # for each variable {name: (T, *shape of the variable)}


class RowMemory(Kind):
    """`evidence["measures"]`, (..., V, T, k): statistics of the rows in each of V variables, where
    the `observe` of a method returns some. For methods with a `memory`, an array as large as the
    rows; (T, *shape) for each of its names and each variable.
    """

    name: ClassVar[str] = "row_memory"
    key: ClassVar[str] = "measures"

    @classmethod
    def of(cls, methods: Sequence[Method]) -> "RowMemory | None":
        return cls() if any(method.memory is not None for method in methods) else None

    def check_given(self, method: Method, value: Any, shape: tuple[int, ...]) -> Any:
        del value, shape
        chosen = next(part for part in iter_methods(method) if part.memory is not None)
        raise ValueError(
            f"{type(chosen).__name__} sees the gradients themselves, of which a Gramian does not "
            "tell enough. Use it in pt.Combiner or pt.Model."
        )


def empty_memory(method: Method, count: int, shapes: Sequence[Sequence[int]]) -> State:
    """The arrays of `method.memory` before the first step.

    For every variable, private ones included: which are shared is known only when the first step
    has been traced, and on JAX all state must exist by then.
    """
    names = method.memory or ()
    return [{name: np.zeros((count, *s), "float32") for name in names} for s in shapes]


def matrices(gradients: Jacobian, variables: Mapping[int, Any]) -> Matrices:
    """The rows of the shared variables, dense and unscaled; zero where there is no path.

    variables  themselves, by index, as far as they are known
    """
    found = {}
    unscale = 1.0 / gradients.scale
    for v in gradients.connectivity.shared:
        rows = [gradients[name][v] for name in gradients.losses]
        known = [None if row is None else engine().dense(row) for row in rows]
        zero = ops.zeros_like(next(row for row in known if row is not None))
        stacked = ops.stack([zero if row is None else row for row in known])
        found[v] = unscale * engine().flat(stacked, variables.get(v))
    return found


def finite(gradients: Jacobian, rows: Matrices) -> Tensor:
    """(T,) bool: whether loss, gradient and the square of its norm are finite."""
    squares = [ops.sum(ops.square(matrix), axis=1) for matrix in rows.values()]
    count = len(gradients.losses)
    total = ops.sum(ops.stack(squares), axis=0) if squares else ops.zeros((count,), "float32")
    return ops.isfinite(gradients.lengths(ops.diag(total)))


class ObservedRows(NamedTuple):
    """What a method made of the rows of all variables.

    raw            the gradients as they were;  gradients  with the rows that it returned instead
    active         (T,) bool: objectives whose rows it has seen
    measures       (V, T, k) or None
    before, after  memory;  offsets  {variable: its shape}
    """

    raw: Jacobian
    gradients: Jacobian
    active: Tensor
    measures: Tensor | None
    before: Memory
    after: Memory
    offsets: dict[int, Tensor]

    def kept(self, active: Tensor) -> Memory:
        """The memory to go on with: that of inactive objectives stays as it was."""
        return [
            {name: ops.where(_rows(active, old[name]), new[name], old[name]) for name in old}
            for old, new in zip(self.before, self.after, strict=True)
        ]

    def moved(self, directions: list[Tensor | None], due: Tensor) -> list[Tensor | None]:
        """Directions with their offsets, where these are `due` () bool, in the gradients' type."""
        found = list(directions)
        names = list(self.raw.losses)
        for v in self.raw.connectivity.shared:
            like: Any = self.raw[names[self.raw.connectivity.objectives(v)[0]]][v]
            if v in self.offsets:
                offset = ops.where(due, self.offsets[v] * self.raw.scale, 0.0)
                found[v] = ops.add(found[v], offset)
            found[v] = ops.cast(found[v], like.dtype)
        return found


class RowObserver:
    """A method with a memory, shown the rows of each step.

    scalarization  what weighs the losses before, and hence the rows that are shown
    variables      that the rows are by, if they are there
    """

    def __init__(
        self, method: Method, scalarization: Method | None, variables: Sequence[Any] = ()
    ) -> None:
        self.method, self.scalarization = method, scalarization
        self._variables = dict(enumerate(variables))

    def look(
        self,
        gradients: Jacobian,
        active: Tensor,
        step: Tensor,
        seed: Seed,
        state: State,
        readings: Mapping[str, Reading],
    ) -> ObservedRows:
        """Show the rows of the active objectives, variable by variable, the others' as zero.

        active    (T,) bool: objectives that have a label
        state     of scalarization, method and memory
        readings  of the evidence, as far as they are known before the rows are
        """
        rows = matrices(gradients, self._variables)
        active = ops.logical_and(active, finite(gradients, rows))
        losses = ops.stack([ops.cast(loss, "float32") for loss in gradients.losses.values()])
        losses = ops.where(active, losses, 0.0)
        names = tuple(gradients.losses)
        evidence = Evidence(losses, None, active, names, step, seed, readings=readings)
        if self.scalarization is not None:
            weights, _ = evaluate(self.scalarization, evidence, state["scalarization"])
            evidence = evidence.scaled(weights)
            rows = {v: weights[:, None] * matrix for v, matrix in rows.items()}
        memory, inner = state["memory"], state["combination"]
        return self._shown(gradients, rows, evidence.reseeded(1), memory, inner)

    def _shown(
        self, gradients: Jacobian, rows: Matrices, evidence: Evidence, memory: Memory, state: State
    ) -> ObservedRows:
        active, fine = evidence.active[:, None], evidence.active
        table: Any = [list(gradients[name]) for name in gradients.losses]
        after, measures = list(memory), []
        offsets: dict[int, Tensor] = {}
        for v, matrix in rows.items():
            shown = ops.where(active, matrix, 0.0)
            beside, old = self._variables.get(v), memory[v]
            reached = gradients.connectivity.objectives(v)
            shape = tuple(table[reached[0]][v].shape)
            flat = {name: engine().flat(array, beside) for name, array in old.items()}
            seen = self.method.observe(shown, flat, evidence, state)
            after[v] = {
                name: engine().unflat(seen.memory[name], array.shape[1:], beside)
                for name, array in old.items()
            }
            measures.append(seen.measures)
            for array in seen.memory.values():
                fine = ops.logical_and(fine, ops.isfinite(ops.sum(array, axis=1)))
            if seen.offset is not None:
                offsets[v] = engine().unflat(seen.offset[None], shape, beside)[0]
                fine = ops.logical_and(fine, ops.isfinite(ops.sum(seen.offset)))
            taken = ops.where(active, seen.rows, 0.0) * gradients.scale
            taken = engine().unflat(taken, shape, beside)
            for t in reached:
                table[t][v] = taken[t]
        if not rows:  # nothing is shared: statistics of nothing
            nothing = ops.zeros((len(table), 1), "float32")
            arrays = dict.fromkeys(self.method.memory or (), nothing)
            measures.append(self.method.observe(nothing, arrays, evidence, state).measures)
        stacked = None if measures[0] is None else ops.stack(measures)
        replaced = gradients.replaced(table)
        return ObservedRows(gradients, replaced, fine, stacked, memory, after, offsets)


def _rows(flags: Tensor, like: Tensor) -> Tensor:
    """(T,) bool for the rows of arrays (T, ...)."""
    return ops.reshape(flags, (-1,) + (1,) * (len(like.shape) - 1))
