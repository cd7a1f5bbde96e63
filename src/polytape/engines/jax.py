"""JAX: one linearization inside the jitted train function, transposed once per objective."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from polytape.engines.absent import unwarned
from polytape.engines.contract import Forward, Measure, Tensor, Variable
from polytape.engines.linearized import Linearized
from polytape.engines.marking import listening
from polytape.engines.scope import Scope

FUSES = True


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


def tape() -> None:
    return None  # what is to be differentiated must be a function


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    recording = Linearized(lambda values: ([function(values)], None), at)
    return recording.pull({0: 1.0}, recording.marks)


class _Rows:
    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._shape, self._dtype = gradients[0].shape, gradients[0].dtype
        self._rows = [gradient.reshape(-1).astype("float32") for gradient in gradients]

    def gram(self) -> Tensor:
        # In as many pieces as there are rows, one after the other, so that stacking them never
        # holds more than one row on top of the rows themselves; short pieces also accumulate less
        # rounding error.
        count, size = len(self._rows), self._rows[0].size
        pieces = min(count, 16) if size >= 4096 else 1
        width = size // pieces

        def product(start: Tensor, width: int) -> Tensor:
            cut = [jax.lax.dynamic_slice_in_dim(row, start, width) for row in self._rows]
            piece = jnp.stack(cut)
            return jnp.matmul(piece, piece.T, precision="highest")

        total = product(pieces * width, size - pieces * width)
        if pieces == 1:
            return total + product(0, width)
        return jax.lax.fori_loop(
            0, pieces, lambda i, total: total + product(i * width, width), total
        )

    def sums(self) -> list[Tensor]:
        return [jnp.sum(row) for row in self._rows]

    def matrix(self) -> Tensor:
        return jnp.stack(self._rows)

    def blend(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        # One fused pass over the rows, without a stacked copy; the selection costs nothing in it.
        total = jnp.zeros_like(self._rows[0])
        for index, row in enumerate(self._rows):
            term = weights[index] * row
            total += term if kept is None else jnp.where(kept[index], term, 0.0)
        return self.restore(total)

    def restore(self, flat: Tensor) -> Tensor:
        return flat.reshape(self._shape).astype(self._dtype)


def rows(gradients: Sequence[Tensor]) -> _Rows:
    return _Rows(gradients)


def dense(gradient: Tensor) -> Tensor:
    return gradient.astype("float32")


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    return total + jnp.where(condition, gradient, 0)


def zeros_like(gradient: Tensor) -> Tensor:
    return jnp.zeros_like(gradient)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    # A sum is finite only if every term is. Long gradients are added up along their last axis by a
    # product with ones, which runs on all cores, and what is left of all of them in one pass.
    sums = [_as_matrix(g) @ jnp.ones(g.shape[-1:]) if g.size > 4096 else g for g in gradients]
    return jnp.isfinite(jnp.sum(jnp.concatenate([s.astype("float32").ravel() for s in sums])))


def _as_matrix(gradient: Tensor) -> Tensor:
    return gradient.astype("float32").reshape(-1, *gradient.shape[-1:])


def island(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def aside(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    del changing  # what happens in the scope stays there
    with Scope():
        return function()


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    for variable, value in zip(variables, values, strict=True):
        kept = variable.value
        variable.assign(jnp.where(accept, value.astype(kept.dtype), kept))


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
) -> None:
    if not optimizer.built:
        optimizer.build(variables)
    before = [v.value for v in variables], [v.value for v in optimizer.variables]
    with unwarned():
        after = optimizer.stateless_apply(before[1], list(gradients), before[0])
    for group, values in zip((variables, optimizer.variables), after, strict=True):
        assign(group, values, accept)


def prepare(model: Any) -> None:
    del model  # nothing to settle


def keep(model: Any) -> list[tuple[Variable, Tensor]]:
    return [(variable, variable.value) for group in _state(model) for variable in group]


def recover(kept: list[tuple[Variable, Tensor]] | None) -> None:
    # Keras empties the variables before the first step of `fit` and refills them from its result;
    # if that step fails while it is traced, there is none.
    for variable, value in kept or ():
        try:
            _ = variable.value
        except TypeError:
            if not value.is_deleted():
                variable.assign(value)


def train_step(model: Any, step: Callable[[Any], Any], state: Any, data: Any) -> Any:
    groups = _state(model)
    mapping = [
        pair
        for variables, values in zip(groups, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]
    with Scope(mapping) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)


def _state(model: Any) -> tuple[list[Variable], ...]:
    """The variables of a train step, in Keras's four groups."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
