"""Gradients of several objectives as rows: those of each variable, or of several side by side."""

from collections.abc import Iterator, Sequence
from typing import Any

from polytape.contract import Tensor
from polytape.contract.cached import cached
from polytape.differentiation.connectivity import Blocks, Connectivity
from polytape.differentiation.table import LoopedTable, Table
from polytape.differentiation.unformed import rows_of_all
from polytape.engines import Rows, engine


class Part:
    """Rows of some variables that the same objectives reach.

    variables  by index;  objectives  by index, in whose order the rows are
    added      whether one more row comes last, of what is added to the combination as it is
    columns    [v][k] the gradients;  known  as rows, if the engine has them so
    """

    def __init__(
        self,
        variables: tuple[int, ...],
        objectives: tuple[int, ...],
        added: bool,
        columns: Sequence[Sequence[Any]],
        known: Rows | None = None,
    ) -> None:
        self.variables, self.objectives, self.added = variables, objectives, added
        self.columns, self._known = columns, known

    @cached
    def rows(self) -> Rows:
        return joined(self.columns) if self._known is None else self._known

    @cached
    def products(self) -> Tensor:
        """(k, k) float32."""
        return self.rows.gram()

    @cached
    def squares(self) -> list[Tensor]:
        """The diagonal of the same, () each."""
        return self.rows.squares()

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> list[Tensor]:
        """For each variable the sum of its gradients times weights (k,).

        kept  (k,) bool: gradients that are read at all; None reads them all
        """
        found = self.rows.weighted_sum(weights, kept)
        return [found] if len(self.variables) == 1 else engine().split(found, self.columns)


class Parts:
    """The rows of a table, part by part: variables side by side where that is quicker.

    rows  [t][v];  extra  [v]: the gradient of what is added to the combination as it is
    """

    def __init__(
        self, rows: Table, extra: Sequence[Tensor | None] | None, connectivity: Connectivity
    ) -> None:
        self._rows, self._extra, self._connectivity = rows, extra, connectivity
        self._made: dict[tuple[int, ...], Part] = {}
        self._by: dict[tuple[int, ...], list[tuple[int, Part]]] = {}

    def by(self, blocks: Blocks) -> list[tuple[int, Part]]:
        """All of them, in the order of the variables, and the block of each."""
        if blocks.of not in self._by:
            self._by[blocks.of] = [*self._in_blocks(blocks.of)]
        return self._by[blocks.of]

    def shared(self, blocks: Blocks) -> list[tuple[int, Part]]:
        """Those of variables that several objectives reach, and the block of each."""
        return [(block, part) for block, part in self.by(blocks) if self.is_shared(part)]

    def of(self, variables: tuple[int, ...]) -> Part:
        """That of some variables that the same objectives reach."""
        if variables not in self._made:
            first = variables[0]
            objectives, added = self._connectivity.objectives(first), self._is_added(first)
            columns = [self._column(v) for v in variables]
            self._made[variables] = Part(variables, objectives, added, columns, self._known(first))
        return self._made[variables]

    def is_private(self, part: Part) -> bool:
        return part.variables[0] in self._connectivity.private

    def is_shared(self, part: Part) -> bool:
        return bool(part.objectives) and not self.is_private(part)

    @property
    def sliced(self) -> bool:
        """Whether replicas have slices of the rows."""
        return any(part.rows.sliced for part in self._made.values())

    def _in_blocks(self, block_of: Sequence[int]) -> Iterator[tuple[int, Part]]:
        together: dict[tuple[int, tuple[int, ...], bool], list[int]] = {}
        for v, block in enumerate(block_of):
            objectives, added = self._connectivity.objectives(v), self._is_added(v)
            if objectives or added:
                together.setdefault((block, objectives, added), []).append(v)
        groups = []
        for (block, _, _), variables in together.items():
            columns = [self._column(v) for v in variables]
            for places in engine().side_by_side(columns):
                groups.append((tuple(variables[place] for place in places), block))
        for group, block in sorted(groups):
            yield block, self.of(group)

    def _known(self, variable: int) -> Rows | None:
        """The rows by a variable, if the engine has them."""
        if isinstance(self._rows, LoopedTable) and not self._is_added(variable):
            return self._rows.known.get(variable)
        return None

    def _column(self, variable: int) -> list[Any]:
        """The gradients by a variable, that of the extra term last."""
        found = [self._rows[t][variable] for t in self._connectivity.objectives(variable)]
        if self._extra is not None and self._extra[variable] is not None:
            found.append(self._extra[variable])
        return found

    def _is_added(self, variable: int) -> bool:
        """Whether the extra term reaches a variable."""
        return self._extra is not None and self._extra[variable] is not None


def joined(columns: Sequence[Sequence[Any]]) -> Rows:
    """The gradients [v][k] by one variable, or by several that lie side by side."""
    return rows_of_all(columns[0]) if len(columns) == 1 else engine().together(columns)
