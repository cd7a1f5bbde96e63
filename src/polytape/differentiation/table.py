"""Gradients of several scalars as a table: [t][v], None where no path exists."""

from collections.abc import Sequence
from typing import Any

from polytape.contract import Tensor, ops
from polytape.differentiation.unformed import rows_of_all
from polytape.engines import InLoop, Recording, engine

Table = Sequence[Sequence[Tensor | None]]


class LoopedTable(list[Sequence[Tensor | None]]):
    """A `Table` of which an engine has some columns as rows: {variable: rows of all objectives}."""

    def __init__(self, found: InLoop) -> None:
        super().__init__(found.table)
        self.known = found.rows


def table_of(
    recording: Recording, scalars: Sequence[int], scale: Any, routes: Sequence[Sequence[int]]
) -> Table:
    """The gradients of several scalars, `scale` times, each by the variables on its route.

    routes  places of variables, for each of the scalars
    """
    count = recording.marks.start
    same = all(route == routes[0] for route in routes)
    if same and engine().way_of(recording, scalars) == "looped":
        return LoopedTable(engine().in_loop(recording, scalars, scale, routes[0]))
    found = engine().pulled_back(recording, scale, scalars, routes)
    rows = [dict(zip(route, row, strict=True)) for route, row in zip(routes, found, strict=True)]
    return [[row.get(variable) for variable in range(count)] for row in rows]


def mean_rows(first: Table, second: Table) -> list[list[Tensor | None]]:
    """The gradients of a batch from those of its halves, each [t][v]."""

    def mean(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        if one is None or other is None:
            return None
        return rows_of_all([one, other]).weighted_sum(ops.full((2,), 0.5, "float32"), None)

    pairs = zip(first, second, strict=True)
    return [[mean(*both) for both in zip(*pair, strict=True)] for pair in pairs]
