"""What autograd's graph looks up in tables, so that rows by them are sparse.

The gradient that comes back to the node of a lookup tells the gradient by its table, and there
autograd can stop. A table that has another use, too, as the matrix of a product say, has a dense
gradient of the losses that come from that.
"""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from polytape.engines.contract import Tensor
from polytape.engines.gathered import Gathered, pays

_CAST = "ToCopyBackward0"
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # and none that is spread over devices


class Lookup(NamedTuple):
    """A node that looks up in a table.

    padding  the index whose gradient counts for nothing; below zero: none
    """

    node: Any
    indices: Tensor
    padding: int


class Entries:
    """The entries of a table that a forward pass has looked up.

    edges      where gradients come back to the lookups
    otherwise  nodes that use the table in another way
    """

    def __init__(self, table: Tensor, lookups: Sequence[Lookup], otherwise: set[Any]) -> None:
        self.edges = [GradientEdge(each.node, 0) for each in lookups]
        self.otherwise, self._table = otherwise, table
        flat = [each.indices.reshape(-1) for each in lookups]
        self._sizes = [each.numel() for each in flat]
        self._counts = None
        if any(each.padding >= 0 for each in lookups):
            counts = [one != each.padding for one, each in zip(flat, lookups, strict=True)]
            self._counts = torch.cat(counts)[:, None]
        indices = torch.cat(flat)
        self._places = torch.sort(indices).values
        self._slots = torch.searchsorted(self._places, indices)

    def gradient(self, back: Sequence[Tensor | None]) -> Gathered | None:
        """That by the table, for those by what was looked up; None where nothing comes back."""
        table = self._table
        kind = torch.float64 if table.dtype is torch.float64 else torch.float32
        if all(each is None for each in back):
            return None
        shape = (-1, table.shape[1])
        known = [
            torch.zeros(size, shape[1], dtype=kind, device=table.device)
            if each is None
            else each.reshape(shape).to(kind)
            for each, size in zip(back, self._sizes, strict=True)
        ]
        joined = torch.cat(known) if len(known) > 1 else known[0]
        if self._counts is not None:
            joined = torch.where(self._counts, joined, torch.zeros_like(joined))
        values = _added(joined, self._slots, len(joined))
        return Gathered(self._places, values, tuple(table.shape), table.dtype)


def looked_up(scalars: Sequence[Tensor], variables: Sequence[Tensor]) -> dict[int, Entries]:
    """{table, by index among the variables: the entries} that gradients of the scalars have."""
    leaves = {
        get_gradient_edge(variable).node: index
        for index, variable in enumerate(variables)
        if _may_be_table(variable)
    }
    if not leaves or torch.compiler.is_compiling():
        return {}
    users = _users([scalar.grad_fn for scalar in scalars], leaves)
    found = {}
    for leaf, index in leaves.items():
        lookups, otherwise = [], set()
        waiting = list(users.get(leaf, ()))
        while waiting:
            node = waiting.pop()
            if node.name() == _CAST:
                waiting += users[node]
            elif (lookup := _lookup(node)) is not None:
                lookups.append(lookup)
            else:
                otherwise.add(node)
        count = sum(each.indices.numel() for each in lookups)
        if lookups and pays(count, variables[index].shape):
            found[index] = Entries(variables[index], lookups, otherwise)
        elif otherwise and not lookups:
            _note_no_table(variables[index])
    return found


# Variables that were used and not looked up in, so that graphs need not be searched for them again.
_no_tables: dict[int, weakref.ref[Tensor]] = {}


def _note_no_table(variable: Tensor) -> None:
    key = id(variable)

    def forget(_: Any) -> None:
        del _no_tables[key]

    _no_tables[key] = weakref.ref(variable, forget)


def _may_be_table(variable: Any) -> bool:
    if type(variable) not in _PLAIN or variable.ndim != 2 or id(variable) in _no_tables:
        return False
    return variable.requires_grad and pays(0, variable.shape)


def _lookup(node: Any) -> Lookup | None:
    if node.name() != "EmbeddingBackward0" or node._saved_scale_grad_by_freq:
        return None
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    # To read `_saved_indices` would fetch from elsewhere, or work out again, what a checkpoint or
    # an offload has put away. That is told by their hooks: there cannot be others.
    try:
        node._raw_saved_indices.register_hooks(keep, _as_it_is)
    except RuntimeError:
        return None
    return Lookup(node, found[0], node._saved_padding_idx)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _users(roots: Sequence[Any], leaves: Mapping[Any, int]) -> dict[Any, list[Any]]:
    """{node: those that use it}, of leaves and of what is cast to another type."""
    found: dict[Any, list[Any]] = {}
    seen: set[Any] = set()
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for source, _ in node.next_functions:
            if source is None:
                continue
            if source in leaves or source.name() == _CAST:
                found.setdefault(source, []).append(node)
            waiting.append(source)
    return found


def table_of(gradient: Gathered) -> Tensor:
    """A gradient in the shape of its table."""
    found = _added(gradient.values, gradient.places, gradient.shape[0])
    return found.to(gradient.dtype)


def _added(values: Tensor, places: Tensor, size: int) -> Tensor:
    """(size, entry): zero but for values (n, entry) added up at their places."""
    # What autograd itself does for a lookup, which takes a tenth of the time of `index_add`.
    found: Tensor = torch.ops.aten.embedding_dense_backward(values, places, size, -1, False)
    return found
