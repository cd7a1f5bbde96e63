"""Gradients of several losses: rows, their Gramian, and the weighted sum of rows."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from polytape.contract import Method, Seed, Tensor, ops
from polytape.contract.cached import cached
from polytape.differentiation.connectivity import Blocks, Connectivity
from polytape.differentiation.rows import Part, Parts, joined
from polytape.differentiation.table import Table
from polytape.differentiation.unformed import formed
from polytape.engines import Measure, engine


class Jacobian:
    """One gradient per objective, of one forward pass: the rows, and what is made of them.

    Shared are the variables that two or more objectives reach.

    Attributes:
        losses: {name: () float32}
        norms: (T,) gradient norms over the shared variables, loss / parameter
        cosines: (T, T) cosine similarities over the shared variables; 0 beside a zero row
        gramian: (T, T) float32 inner products over the shared variables, loss^2 / parameter^2
        connectivity: which objective reaches which variable
    """

    variables: Sequence[Any] = ()  # what the gradients are by, where that is told

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        rows: Table,
        connectivity: Connectivity,
        scale: Any = 1.0,
        extra: Sequence[Tensor | None] | None = None,
        parts: Mapping[str, Sequence[Table]] | None = None,
    ) -> None:
        """rows[t][v], None where `connectivity` has no path; every row `scale` times too large.

        Args:
            extra: the gradient, by variable, of a term that is added to the combination as it is
            parts: {kind of evidence: what the rows were made of}, such as the rows of half batches
        """
        self.parts: Mapping[str, Sequence[Table]] = parts or {}
        self.losses = dict(losses)
        self.connectivity = connectivity
        self._rows, self._scale, self._extra = rows, scale, extra
        self._parts = Parts(rows, extra, connectivity)

    def __getitem__(self, name: str) -> list[Tensor | None]:
        """The gradient of one objective, a list over variables; None where no path exists."""
        if name not in self.losses:
            raise KeyError(f"No objective {name!r}. Objectives: {', '.join(self.losses)}.")
        row = [formed(gradient) for gradient in self._rows[self.connectivity.names.index(name)]]
        return [gradient if gradient is None else engine().as_update(gradient) for gradient in row]

    def joint(self) -> "Jacobian":
        """The same gradients with private variables counted as shared.

        Returns:
            Gradients of the same rows.
        """
        connectivity = dataclasses.replace(self.connectivity, joint=True)
        return Jacobian(self.losses, self._rows, connectivity, self._scale, self._extra, self.parts)

    @property
    def measure(self) -> Measure:
        """Where the Gramian is measured."""
        return "parameters"

    @property
    def shapes(self) -> list[list[int]]:
        """The shape of each variable; that of nothing where nothing reaches it."""
        columns = zip(*self._rows, strict=True)
        known = [next((row for row in column if row is not None), None) for column in columns]
        return [[0] if row is None else list(row.shape) for row in known]

    @property
    def extra(self) -> Sequence[Tensor | None] | None:
        """The gradient, by variable, of what is added to the combination as it is."""
        return self._extra

    def products(self, variable: int) -> Tensor:
        """(k, k) float32 inner products of what reaches a variable, its extra term last.

        Args:
            variable: its index

        Returns:
            As many times too large as the square of `scale`.
        """
        (found,) = self._whole([self._parts.of((variable,)).products])
        return found

    def squares(self, variable: int) -> list[Tensor]:
        """The diagonal of the same, () each, found with less work.

        Args:
            variable: its index

        Returns:
            As many times too large as the square of `scale`.
        """
        return self._whole(self._parts.of((variable,)).squares)

    counted: Tensor | None = None  # (T,) bool: objectives that count at all; None: all of them

    @property
    def forms_rows(self) -> bool:
        """Whether combinations of gradients can be formed before they are multiplied."""
        return True

    @cached
    def loss_vector(self) -> Tensor:
        """(T,) float32."""
        losses = [*self.losses.values()]
        if len({loss.dtype for loss in losses}) > 1:
            losses = [keras.ops.cast(loss, "float32") for loss in losses]
        return keras.ops.cast(engine().stack(losses), "float32")

    @property
    def _sliced(self) -> bool:
        """Whether replicas have slices of the rows."""
        return engine().SCATTERS and self._parts.sliced

    def _whole(self, sums: list[Tensor]) -> list[Tensor]:
        """Sums over coordinates, of all replicas where these have slices of the rows."""
        return engine().all_reduce(sums) if self._sliced else sums

    @property
    def scale(self) -> Any:
        """How many times too large every row is kept."""
        return self._scale

    @property
    def scaled(self) -> bool:
        """Whether rows are kept at the scale of a loss scaling."""
        return not isinstance(self._scale, float)

    def replaced(self, rows: Sequence[Sequence[Tensor | None]]) -> "Jacobian":
        """The same with other rows, as many times too large.

        Args:
            rows: [t][v], None where no path exists

        Returns:
            Gradients of the same objectives and variables.
        """
        return Jacobian(self.losses, rows, self.connectivity, self._scale, self._extra)

    def within(self, objectives: Sequence[int], variables: Sequence[int]) -> "Jacobian":
        """Some of the objectives on some of the variables, by index, as if there were no others.

        Args:
            objectives: their indices
            variables: their indices

        Returns:
            Gradients of these, in this order.
        """

        def cut(table: Table) -> Table:
            return [[table[t][v] for v in variables] for t in objectives]

        names = [*self.losses]
        losses = {names[t]: self.losses[names[t]] for t in objectives}
        connectivity = self.connectivity.within(objectives, variables)
        extra = None if self._extra is None else [self._extra[v] for v in variables]
        parts = {kind: [cut(table) for table in tables] for kind, tables in self.parts.items()}
        return Jacobian(losses, cut(self._rows), connectivity, self._scale, extra, parts)

    @cached
    def gramian(self) -> Tensor:
        return self.gramians(Blocks.by(None, self.connectivity.paths))

    @property
    def norms(self) -> Tensor:
        return ops.sqrt(ops.diagonal(self.gramian))

    @property
    def cosines(self) -> Tensor:
        norms = self.norms
        inverse = ops.where(norms > 0, 1.0 / ops.where(norms > 0, norms, 1.0), 0.0)
        return self.gramian * inverse[:, None] * inverse[None, :]

    def gramians(self, blocks: Blocks) -> Tensor:
        """(T, T), or (B, T, T) if the blocks are those of a scope.

        Args:
            blocks: of a scope, or of all variables as one

        Returns:
            (T, T) float32, or (B, T, T) if the blocks are those of a scope.
        """

        def product(part: Part) -> Tensor:
            among = len(part.objectives)
            return part.products[:among, :among] if part.added else part.products

        return self._assembled(blocks, product)

    def mixed_gramians(self, blocks: Blocks, mixed: Tensor, active: Tensor) -> Tensor:
        """Inner products of combinations of gradients, each formed before it is multiplied.

        Args:
            blocks: of a scope, or of all variables as one
            mixed: (T, T), or (B, T, T) for the blocks of a scope: combinations in rows
            active: (T,) bool: gradients that are read at all

        Returns:
            Of the shape of `mixed`.
        """
        stack: list[Any] = [0.0] * (blocks.shape[0] if blocks.shape else 1)
        for block, part in self._parts.shared(blocks):
            own, kept = self._columns(part, mixed[block] if blocks.shape else mixed, active)
            stack[block] = stack[block] + part.rows.gram(own, kept)
        stack = self._whole(stack)
        unscale = 1.0 / (self._scale * self._scale)
        stack = [ops.broadcast_to(products, mixed.shape[-2:]) for products in stack]
        return (ops.stack(stack) if blocks.shape else stack[0]) * unscale

    def _columns(self, part: Part, mixed: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of `mixed` and activity of the rows of one part; an extra term has none."""
        if not part.added and len(part.objectives) == len(self.connectivity.names):
            return mixed, active
        objectives, extra = np.array(part.objectives, int), int(part.added)
        return (
            ops.pad(ops.take(mixed, objectives, axis=-1), [(0, 0), (0, extra)]),
            ops.concatenate([ops.take(active, objectives), ops.zeros((extra,), dtype="bool")]),
        )

    def products_of(self, first: Table, second: Table, blocks: Blocks) -> Tensor:
        """Inner products of the rows of one table with those of another, over shared variables.

        (T, T), or (B, T, T) if the blocks are those of a scope; those of the first in the rows.

        Args:
            first: [t][v], None where no path exists
            second: [t][v], likewise
            blocks: of a scope, or of all variables as one

        Returns:
            (T, T) float32, or (B, T, T).
        """

        def product(part: Part) -> Tensor:
            columns: list[list[Any]] = [
                [rows[t][v] for rows in (first, second) for t in part.objectives]
                for v in part.variables
            ]
            among = len(part.objectives)
            return joined(columns).gram()[:among, among:]

        return self._assembled(blocks, product)

    def _assembled(self, blocks: Blocks, product_of: Callable[[Part], Tensor]) -> Tensor:
        count = len(self.connectivity.names)
        parts: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        for block, part in self._parts.shared(blocks):
            key, product = (block, part.objectives), product_of(part)
            parts[key] = parts[key] + product if key in parts else product

        def assembled(products: Sequence[Tensor], scale: Any) -> Tensor:
            stack: list[Any] = [ops.zeros((count, count), "float32")] * (
                blocks.shape[0] if blocks.shape else 1
            )
            for (block, objectives), product in zip(parts, products, strict=True):
                stack[block] = stack[block] + _embed(product, objectives, count)
            unscale = 1.0 / (scale * scale)
            return (ops.stack(stack) if blocks.shape else stack[0]) * unscale

        return engine().evaluated(assembled, self._whole([*parts.values()]), self._scale)

    def lengths(self, gramian: Tensor | None) -> Tensor:
        """(T,) norm of each objective's gradient by all variables, shared and private.

        Not finite where the loss, the gradient or the square of its norm is not.

        Args:
            gramian: (T, T) or (B, T, T): tells it for shared variables; None looks at every row

        Returns:
            (T,) float32.
        """
        parts = [part for _, part in self._parts.by(Blocks.by(None, self.connectivity.paths))]
        asked = [part for part in parts if gramian is None or not self._parts.is_shared(part)]
        nobody = len(self.connectivity.names)  # has the extra term
        owners = [t for part in asked for t in (*part.objectives, *(nobody,) * part.added)]
        squares = self._whole([engine().squares([part.rows for part in asked])]) if asked else []

        def added(
            losses: Tensor, squares: Sequence[Tensor], gramian: Tensor | None, scale: Any
        ) -> Tensor:
            total = ops.where(ops.isfinite(losses), 0.0, losses)
            for each in squares:
                numbers = np.arange(losses.shape[0])
                own = ops.convert_to_tensor(numbers[:, None] == np.array(owners))
                unscale = 1.0 / (scale * scale)
                total += ops.sum(ops.where(own, each, 0.0), axis=-1) * unscale
            if gramian is not None:
                whole = ops.sum(gramian, axis=0) if len(gramian.shape) == 3 else gramian
                total += ops.diagonal(whole)
            return ops.sqrt(total)

        return engine().evaluated(added, self.loss_vector, squares, gramian, self._scale)

    def combined(
        self,
        shared: Tensor,
        private: Tensor | None,
        active: Tensor,
        blocks: Blocks,
        method: Method,
        seed: Seed,
    ) -> list[Tensor | None]:
        """The update direction of every variable: J^T w where shared, w_t g_t where private.

        shared (T,) or (B, T) and private (T,) weights, None being ones; active (T,). Rows of
        inactive objectives are never read, whatever they hold. None for variables that nothing
        reaches.

        Args:
            shared: (T,) or (B, T) weights
            private: (T,) weights; None: ones
            active: (T,) bool
            blocks: of a scope, or of all variables as one
            method: combines the rows if it needs "rows"
            seed: for random numbers of the method

        Returns:
            One direction for each variable, None where nothing reaches it.
        """

        plain = private is None and self._extra is None
        private = ops.cast(active, "float32") if private is None else private

        by_coordinate = method.needs == "rows" and not method.sums_rows
        parts = self._parts.by(
            Blocks.by("variable", self.connectivity.paths) if by_coordinate else blocks
        )

        def directions(every_row: bool) -> list[Tensor]:
            found: list[Tensor] = []
            own_weights, own_active = _Apart(private), _Apart(active)
            for _, part in parts:
                own = self._parts.is_private(part)
                if own and plain and every_row:
                    found += [formed(column[0]) for column in part.columns]
                    continue
                if own and not part.added:
                    (t,) = part.objectives
                    found += part.weighted_sum(own_weights[t], None if every_row else own_active[t])
                    continue
                chosen = shared[blocks.of[part.variables[0]]] if blocks.shape else shared
                weights, kept = self._weights(part, private if own else chosen, active)
                if by_coordinate and not own:
                    (v,) = part.variables
                    matrix = ops.where(kept[:, None], part.rows.matrix(), 0.0) * weights[:, None]
                    count = len(part.objectives)
                    mixed = method.combine(matrix[:count], seed.shifted(v + 1))
                    found.append(part.rows.unflatten(mixed + ops.sum(matrix[count:], axis=0)))
                else:
                    found += part.weighted_sum(weights, None if every_row else kept)
            return found

        if engine().FUSES:
            found = directions(False)
        else:
            found = engine().choose(
                ops.all(active), lambda: directions(True), lambda: directions(False)
            )
        found = [engine().as_update(direction) for direction in found]
        if self._sliced:
            found = engine().gathered(found)
        variables = (v for _, part in parts for v in part.variables)
        directions_by_variable = dict(zip(variables, found, strict=True))
        return [directions_by_variable.get(v) for v in range(len(self.connectivity.paths))]

    @property
    def taken(self) -> Tensor | None:
        """(T,) bool, once combined: objectives that are in the directions; None: all active."""
        return None

    def _weights(self, part: Part, weights: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (k,) and activity (k,) of the rows of one part, an extra term included."""
        objectives, extra = np.array(part.objectives, int), int(part.added)
        if not extra and len(objectives) == len(self.connectivity.names):
            return weights, active
        if not extra and len(objectives) == 1:
            only = slice(int(objectives[0]), int(objectives[0]) + 1)
            return weights[only], active[only]
        return (
            ops.concatenate([ops.take(weights, objectives), ops.ones((extra,), "float32")]),
            ops.concatenate([ops.take(active, objectives), ops.ones((extra,), dtype="bool")]),
        )


class _Apart:
    """The entries of a tensor (T,), as tensors (1,): parted once, whoever asks."""

    def __init__(self, whole: Tensor) -> None:
        self._whole = whole

    def __getitem__(self, place: int) -> Tensor:
        return self._parts[place]

    @cached
    def _parts(self) -> list[Tensor]:
        count = self._whole.shape[0]
        return [self._whole] if count == 1 else list(keras.ops.split(self._whole, count))


def _embed(product: Tensor, objectives: tuple[int, ...], count: int) -> Tensor:
    if len(objectives) == count:
        return product
    # Moved, not multiplied by zeros: what is not finite would come out in every place.
    places = np.full(count, len(objectives), "int32")
    places[list(objectives)] = np.arange(len(objectives))
    padded = ops.pad(product, [(0, 1), (0, 1)])
    return ops.take(ops.take(padded, places, axis=0), places, axis=1)
