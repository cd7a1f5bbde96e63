"""Every example an objective: the Gramian of a batch's examples, without their gradients.

One backward pass goes as far as the outputs of the layers. Examples do not mix, so that the
gradient of the *sum* of their losses by such an output holds the cotangent of every example. With
the inputs of the layers these make the Gramian (`layer_rows.py`) and, weighted, the update.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from polytape.contract import Method, Seed, Tensor
from polytape.contract.cached import cached
from polytape.differentiation.connectivity import Blocks, Connectivity
from polytape.differentiation.examples import Pass
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.layer_calls import with_weights
from polytape.differentiation.layer_recording import LayerRecording, record_calls
from polytape.differentiation.layer_rows import count_of
from polytape.differentiation.passes import Directions
from polytape.differentiation.variables import path_of
from polytape.engines import Forward, Variable, engine


def record_examples(
    forward: Forward, variables: Sequence[Variable], roots: Sequence[layers.Layer]
) -> LayerRecording:
    """A forward pass with the calls of all layers below some noted."""
    if engine().replica_count() > 1:
        raise RuntimeError(
            "Objectives with `per` need the gradients of all examples of a batch in one place, and "
            f"this step is one of {engine().replica_count()} replicas. Train on one device, or "
            "leave out `per`."
        )
    return record_calls(forward, variables, roots, with_weights)


class PerExample(Jacobian):
    """Gradients of T losses of examples, of which only the inner products are formed.

    losses, norms, cosines, gramian  as of `Jacobian`, T being S passes times N examples
    connectivity                     which reaches which variable; all that several reach is shared
    """

    def __init__(
        self,
        names: Sequence[str],
        losses: Tensor,
        recording: LayerRecording,
        passes: Sequence[Pass],
        scale: Any = 1.0,
        extra: int | None = None,
    ) -> None:
        """names, losses  T and (T,), one pass after the other; the last of each may be missing

        Args:
            names: of the T losses
            losses: (T,) their values
            recording: the forward pass
            passes: S of them
            scale: times which everything is too large
            extra: a scalar to add to the combination as it is
        """
        self._vector = ops.cast(losses, "float32")
        self.losses = dict(zip(names, ops.unstack(self._vector, len(names)), strict=True))
        self.parts = {}
        self._recording, self._passes, self._scale, self._added = recording, passes, scale, extra
        self._size = len(names) // len(passes)
        self._count = count_of(recording.scalars[passes[0].scalar])
        marked = [recording.marked({p.scalar: self._seed(p)}) for p in passes]
        for brought in marked:
            recording.check_batch(brought, self._count)
        self.reach = np.zeros((len(passes), len(recording.variables)), bool)
        for row, each, brought in zip(self.reach, passes, marked, strict=True):
            row[
                [v for v in recording.reached(brought) if each.routed is None or v in each.routed]
            ] = True
        every = np.repeat(self.reach, self._size, axis=0)
        paths = tuple(path_of(variable) for variable in recording.variables)
        self.connectivity = Connectivity(tuple(names), paths, every, joint=True)
        self._rows_by_variable = recording.rows(marked, self.connectivity.shared)
        self._grams: dict[int, Tensor] = {}

    def _seed(self, each: Pass) -> Tensor:
        """The cotangents of the losses of a pass."""
        losses = self._recording.scalars[each.scalar]
        whole = ops.ones_like(losses) * ops.cast(self._scale, losses.dtype)
        if each.step is None:
            return whole
        steps = ops.equal(ops.arange(losses.shape[1]), each.step)
        return ops.where(steps[None, :], whole, ops.zeros_like(whole))

    @cached
    def loss_vector(self) -> Tensor:
        """(T,) float32."""
        return self._vector

    @property
    def shapes(self) -> list[list[int]]:
        return [[0] for _ in self.connectivity.paths]  # no rows are kept, so none are remembered

    def __getitem__(self, name: str) -> list[Tensor | None]:
        if name not in self.losses:
            raise KeyError(f"No loss {name!r}. Losses: {', '.join(list(self.losses)[:4])}, ...")
        chosen = np.arange(len(self.losses)) == self.connectivity.names.index(name)
        return self._summed(ops.convert_to_tensor(chosen.astype("float32")), None)

    def joint(self) -> "PerExample":
        return self  # it is already: every variable is one that several examples reach

    def within(self, objectives: Sequence[int], variables: Sequence[int]) -> Jacobian:
        raise ValueError(
            "Gradients of single examples are combined all at once, by all variables: leave out "
            f"`losses` and `variables`. Received: {len(objectives)} of {len(self.losses)} losses "
            f"and {len(variables)} of {len(self.connectivity.paths)} variables."
        )

    def gramians(self, blocks: Blocks) -> Tensor:
        found: list[Any] = [0.0] * (blocks.shape[0] if blocks.shape else 1)
        for v in self._rows_by_variable:
            found[blocks.of[v]] = found[blocks.of[v]] + self._gram(v)
        count = (len(self.losses),) * 2
        unscale = 1.0 / (self._scale * self._scale)
        found = [ops.broadcast_to(products, count) * unscale for products in found]
        return ops.stack(found) if blocks.shape else found[0]

    def _gram(self, variable: int) -> Tensor:
        """(T, T), `scale` times `scale` too large; zero for what is missing or not routed."""
        if variable not in self._grams:
            number, size, count = len(self._passes), self._size, self._count
            products = self._rows_by_variable[variable].gram()
            among = self.reach[:, variable]
            if not among.all() or count is not size:
                products = ops.reshape(products, (number, count, number, count))
                if not among.all():
                    both = (among[:, None] & among[None, :])[:, None, :, None]
                    products = ops.where(ops.convert_to_tensor(both), products, 0.0)
                if count is not size:
                    left = size - count
                    products = ops.pad(products, [(0, 0), (0, left), (0, 0), (0, left)])
                products = ops.reshape(products, (number * size, number * size))
            self._grams[variable] = products
        return self._grams[variable]

    def lengths(self, gramian: Tensor | None) -> Tensor:
        gramian = self.gramian if gramian is None else gramian
        whole = ops.sum(gramian, axis=0) if len(gramian.shape) == 3 else gramian
        losses = self._vector
        return ops.sqrt(ops.diagonal(whole) + ops.where(ops.isfinite(losses), 0.0, losses))

    @property
    def forms_rows(self) -> bool:
        return False  # T of them would be as large as what is spared here

    def combined(
        self,
        shared: Tensor,
        private: Tensor | None,
        active: Tensor,
        blocks: Blocks,
        method: Method,
        seed: Seed,
    ) -> Directions:
        del private, method, seed  # nothing is private, and nobody sees rows

        def directions(every: bool) -> list[Tensor]:
            kept = None if every else active
            found = self._summed(shared, kept, blocks)
            return [gradient for gradient in found if gradient is not None]

        if engine().FUSES:
            reached = directions(False)
        else:
            reached = ops.cond(ops.all(active), lambda: directions(True), lambda: directions(False))
        left = iter(reached)
        found = [
            next(left) if v in self._rows_by_variable else None
            for v in range(len(self.connectivity.paths))
        ]
        return found if self._added is None else self._with_added(found, self._added)

    def _summed(
        self, weights: Tensor, kept: Tensor | None, blocks: Blocks | None = None
    ) -> Directions:
        """For (T,) or (B, T) weights the weighted sum of the gradients by each variable."""
        found: Directions = []
        for v, variable in enumerate(self._recording.variables):
            rows = self._rows_by_variable.get(v)
            if rows is None:
                found.append(None)
                continue
            own = weights if blocks is None or not blocks.shape else weights[blocks.of[v]]
            among = ops.convert_to_tensor(self.reach[:, v].astype("float32"))
            own = self._of_these(own, among)
            there = None if kept is None else self._of_these(kept, among) > 0
            found.append(ops.cast(rows.weighted(own, there), variable.dtype))
        return found

    def _of_these(self, values: Tensor, among: Tensor) -> Tensor:
        """(S n,) of (T,) float32: of the examples that are there; zero for passes not `among`."""
        table = ops.reshape(ops.cast(values, "float32"), (len(self._passes), self._size))
        table = table * among[:, None]
        return ops.reshape(table[:, : self._count], (-1,))

    def _with_added(self, directions: Directions, added: int) -> Directions:
        extra = self._recording.vjp({added: self._scale}, range(len(directions)))
        return [_sum(*pair) for pair in zip(directions, extra, strict=True)]


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return ops.add(engine().dense(first), engine().dense(second))
