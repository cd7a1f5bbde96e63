"""Every example an objective: the Gramian of a batch's examples, without their gradients.

One backward pass goes as far as the outputs of the layers. Examples do not mix, so that the
gradient of the *sum* of their losses by such an output holds the cotangent of every example. With
the inputs of the layers these make the Gramian (`layer_rows.py`) and, weighted, the update.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from polytape.contract import Method, Seed, Tensor
from polytape.differentiation.connectivity import Blocks, Connectivity
from polytape.differentiation.examples import Pass
from polytape.differentiation.jacobian import Jacobian, path_of
from polytape.differentiation.layer_calls import LayerCall, Listening
from polytape.differentiation.layer_rows import ExampleRows, Seen, count_of, rows_of, together
from polytape.differentiation.passes import Directions
from polytape.engines import Forward, Measure, Recording, Scalars, Variable, engine


class LayerRecording:
    """A forward pass with the calls of all layers noted: a `Recording`.

    Layers' variables have no gradient in `local`; what they have is by their calls.
    """

    measure: Measure = "parameters"

    def __init__(
        self,
        local: Recording,
        calls: Sequence[LayerCall],
        carried: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
        outputs: Any,
        variables: Sequence[Variable],
    ) -> None:
        self.local, self.calls, self.carried, self.outputs = local, calls, carried, outputs
        self.scalars, self.groups = local.scalars, local.groups
        self._places = {id(variable): v for v, variable in enumerate(variables)}
        self.variables = variables
        self.marks = self.stand_ins = range(len(variables), len(variables))

    def vjp(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int], last: bool = False
    ) -> list[Tensor | None]:
        count = len(self.variables)
        found = self.local.vjp(cotangents, [*range(count), *self.local.marks], last)
        rows = self.rows([found[count:]], {*variables})
        return [_sum(found[v], self._whole(v, rows.get(v))) for v in variables]

    def _whole(self, variable: int, rows: ExampleRows | None) -> Tensor | None:
        """The gradient of the sum of all examples."""
        if rows is None:
            return None
        ones = ops.ones((rows.count,), "float32")
        return ops.cast(rows.weighted(ones, None), self.variables[variable].dtype)

    def zeros(self, variable: int) -> Tensor:
        return self.local.zeros(variable)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = np.array(self.local.reach(scalars), bool)
        for row, scalar in zip(found, scalars, strict=True):
            row[[*self.reached(self.marked({scalar: 1.0}))]] = True
        return found

    def check_covered(self, names: Sequence[str], scalars: Sequence[int]) -> None:
        """Raise for a variable that a loss uses outside of the layers that hold it."""
        for name, row in zip(names, self.local.reach(scalars), strict=True):
            if row.any():
                path = path_of(self.variables[int(np.flatnonzero(row)[0])])
                raise ValueError(
                    f"The losses of {name!r} use the variable {path!r} outside of the call of a "
                    "layer that holds it, where the gradients of single examples cannot be told "
                    "apart. Use it in `call` of a layer of its own: one that adds it with "
                    "self.add_weight, or keeps the layer that does as an attribute; and give that "
                    "layer, or a model with it, to whoever differentiates."
                )

    def check_batch(self, marked: Sequence[Tensor | None], count: Any) -> None:
        """Raise for a layer whose outputs do not begin with the axis of the examples.

        count  of them: a number, or () int where only the step knows it
        """
        for call in self.calls:
            found = [None if m is None else marked[m] for m in call.marks]
            shapes = [tuple(each.shape) for each in found if each is not None]
            wrong = [shape for shape in shapes if shape[:1] not in ((count,), (None,))]
            if wrong and isinstance(count, int):
                raise ValueError(
                    f"Layer {call.path!r} gives out a tensor of shape {wrong[0]}, and a batch of "
                    f"{count} examples came in: which of them a row belongs to cannot be told. "
                    "Call it on something with the batch axis first: positions, say, broadcast to "
                    "the batch; or inside of a layer of your own that has weights, too."
                )

    def marked(self, seeds: Mapping[int, Tensor]) -> list[Tensor | None]:
        """What one backward pass brings to each mark."""
        return self.local.vjp(seeds, self.local.marks)

    def reached(self, marked: Sequence[Tensor | None]) -> list[int]:
        """The variables, by place, of the calls to which a backward pass has come."""
        calls = [call for call in self.calls if _comes(call, marked)]
        return [self._places[id(variable)] for call in calls for variable in call.variables]

    def rows(
        self, passes: Sequence[Sequence[Tensor | None]], among: Collection[int]
    ) -> dict[int, ExampleRows]:
        """{variable, by place: its gradients} of every example, of one pass after the other.

        passes  what each brought to the marks;  among  the variables that are asked for
        """
        uses: dict[int, list[ExampleRows]] = {}
        for call, (tensors, states) in zip(self.calls, self.carried, strict=True):
            places = {id(v): self._places[id(v)] for v in call.variables}
            if {*places.values()} & {*among} and any(_comes(call, each) for each in passes):
                back = [None if m is None else _joined([e[m] for e in passes]) for m in call.marks]
                for key, found in rows_of(Seen(call, tensors, states, back, len(passes))).items():
                    if places[key] in among:
                        uses.setdefault(places[key], []).append(found)
        return {v: together(found) for v, found in uses.items()}


def record_layers(
    forward: Forward, variables: Sequence[Variable], roots: Sequence[layers.Layer]
) -> LayerRecording:
    """A forward pass, with the calls of all layers below some noted."""
    if engine().replica_count() > 1:
        raise RuntimeError(
            "Objectives with `per` need the gradients of all examples of a batch in one place, and "
            f"this step is one of {engine().replica_count()} replicas. Train on one device, or "
            "leave out `per`."
        )
    calls: list[LayerCall] = []

    def noted() -> tuple[Scalars, Any]:
        values = {id(v): (v, ops.stop_gradient(v.value)) for v in variables}
        listening = Listening(values)
        with listening.attached(roots):
            scalars, outputs = forward()
        calls[:] = listening.calls
        return scalars, (outputs, [(call.tensors, call.states) for call in calls])

    local = engine().record(noted, lambda: variables, "layers")
    outputs, carried = local.outputs
    return LayerRecording(local, calls, carried, outputs, variables)


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

    @property
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


def _comes(call: LayerCall, marked: Sequence[Tensor | None]) -> bool:
    """Whether a backward pass comes to a call."""
    return any(m is not None and marked[m] is not None for m in call.marks)


def _joined(passes: Sequence[Tensor | None]) -> Tensor | None:
    """(S n, ...) float32 of S times (n, ...), zeros for None; None if all are."""
    known = [each for each in passes if each is not None]
    if not known:
        return None
    zeros = ops.zeros_like(known[0])
    found = [ops.cast(zeros if each is None else each, "float32") for each in passes]
    return ops.concatenate(found) if len(found) > 1 else found[0]
