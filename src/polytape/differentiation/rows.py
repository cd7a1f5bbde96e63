"""Gradients of several objectives as rows: those of each variable, or of several side by side."""

from collections.abc import Sequence
from typing import Any

from polytape.contract import Tensor
from polytape.contract.cached import cached
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


def joined(columns: Sequence[Sequence[Any]]) -> Rows:
    """The gradients [v][k] by one variable, or by several that lie side by side."""
    return rows_of_all(columns[0]) if len(columns) == 1 else engine().together(columns)
