"""The gradients of many losses by what they share: in one batched backward pass, where it pays.

Calling an operation of a small network takes longer than doing it. Where all losses come out of one
tensor, each is differentiated as far as that, and the rest of the way is gone once for all of them,
every operation on T cotangents side by side. The rows are the same up to rounding.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import GradientEdge

from polytape.engines import apart
from polytape.engines.contract import Tensor
from polytape.engines.torch.recording import GraphRecording, dense, seed_like

Node = Any  # of autograd's graph

# Measured on two cores: networks of Dense layers and attention, T from 4 to 40. Below so many
# operations there is nothing to win; beyond so many entries of a cotangent they are what costs, and
# T at once leave the caches.
_CALLS = 100
_ENTRIES = 2**14
# What is slower on T cotangents at once, or cannot do it.
_ONE_BY_ONE = ("Convolution", "Conv", "Mkldnn", "Cudnn", "CompiledFunction")
_functorch: Any = torch._C._functorch
_refused: set[frozenset[str]] = set()  # the operations of passes that could not be done at once


class _Meeting(NamedTuple):
    """Where the paths of all losses meet.

    edge     the tensor, as autograd has it;  common  the nodes behind it
    private  of each loss the nodes before it
    """

    edge: GradientEdge
    common: set[Node]
    private: list[set[Node]]


def pulled_back(
    recording: Any,
    cotangent: Tensor | float,
    scalars: Sequence[int],
    variables: Sequence[Sequence[int]],
) -> list[list[Tensor | None]]:
    if isinstance(recording, GraphRecording) and not torch.compiler.is_compiling():
        found = _at_once(recording, cotangent, scalars, variables)
        if found is not None:
            return found
    return apart.pulled_back(recording, cotangent, scalars, variables)


def _at_once(
    recording: GraphRecording,
    cotangent: Tensor | float,
    scalars: Sequence[int],
    variables: Sequence[Sequence[int]],
) -> list[list[Tensor | None]] | None:
    """None where one pass after the other is quicker, or the only way."""
    roots = [recording.scalars[scalar] for scalar in scalars]
    if len(roots) < 2 or not all(root.requires_grad for root in roots):
        return None
    meeting = _meeting([root.grad_fn for root in roots])
    if meeting is None or not recording.plain or not _pays(meeting, len(roots)):
        return None
    wanted = [frozenset(own) for own in variables]
    common = [
        place for place in recording.places(meeting.common) if any(place in w for w in wanted)
    ]
    private = [
        [place for place in recording.places(nodes) if place in own]
        for nodes, own in zip(meeting.private, wanted, strict=True)
    ]
    if not common:
        return None
    before = []
    for root, places in zip(roots, private, strict=True):
        inputs = [meeting.edge, *(recording.known[place] for place in places)]
        seed = seed_like(root, cotangent)
        before.append(torch.autograd.grad(root, inputs, seed, retain_graph=True))
    features = torch.stack([found[0] for found in before])
    behind = _batched(meeting, features, [recording.known[place] for place in common])
    if behind is None:
        return None
    rows = []
    for places, (_, *own), shared in zip(private, before, zip(*behind, strict=True), strict=True):
        row = dict(zip(common, shared, strict=True))
        row.update(zip(places, map(dense, own), strict=True))
        rows.append(row)
    return [[row.get(place) for place in own] for row, own in zip(rows, variables, strict=True)]


def _batched(
    meeting: _Meeting, features: Tensor, inputs: Sequence[Tensor]
) -> list[Sequence[Tensor]] | None:
    """T gradients each; None if an operation on the way cannot be done for all at once."""
    allowed = _functorch._is_vmap_fallback_enabled()
    _functorch._set_vmap_fallback_enabled(False)  # a loop within each operation is slower still
    try:
        found = torch.autograd.grad(
            [meeting.edge], inputs, [features], retain_graph=True, is_grads_batched=True
        )
    except RuntimeError:  # if it is another fault, the passes one by one come to it, too
        _refused.add(_names(meeting.common))
        return None
    finally:
        _functorch._set_vmap_fallback_enabled(allowed)
    return [gradient.contiguous().unbind() for gradient in found]


def _meeting(roots: Sequence[Node]) -> _Meeting | None:
    """None unless all losses come to what they share through one tensor."""
    edge: tuple[Node, int] | None = None
    known, private = _behind(roots[0]), [set[Node]()]
    for root in roots[1:]:
        own, met = _before(root, known)
        if root in known or len(met) != 1 or edge not in (None, *met):
            return None
        edge = met.pop()
        private.append(own)
        known |= own
    if edge is None:
        return None
    common = _behind(edge[0])
    private[0], met = _before(roots[0], common)
    if roots[0] in common or met != {edge}:
        return None
    return _Meeting(GradientEdge(*edge), common, private)


def _behind(node: Node) -> set[Node]:
    """A node and all that a gradient passes on its way from there."""
    return _before(node, ())[0]


def _before(node: Node, others: Collection[Node]) -> tuple[set[Node], set[tuple[Node, int]]]:
    """The nodes on the way from one to some others, and where the way comes to these."""
    found, met, waiting = {node}, set[tuple[Node, int]](), [node]
    while waiting:
        for source, number in waiting.pop().next_functions:
            if source in others:
                met.add((source, number))
            elif source is not None and source not in found:
                found.add(source)
                waiting.append(source)
    return found, met


def _pays(meeting: _Meeting, count: int) -> bool:
    nodes = meeting.common
    if count * len(nodes) < _CALLS:
        return False
    names = _names(nodes)
    if names in _refused or any(name.startswith(_ONE_BY_ONE) for name in names):
        return False
    sizes = (math.prod(each.shape) for node in nodes for each in node._input_metadata)
    return all(size <= _ENTRIES for size in sizes)


def _names(nodes: Collection[Node]) -> frozenset[str]:
    return frozenset(node.name() for node in nodes)
