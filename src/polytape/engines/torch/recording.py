"""Recordings: autograd over a retained graph."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from polytape.engines.contract import Forward, Marked, Measure, Tensor, Variable
from polytape.engines.grouped import flattened
from polytape.engines.marking import (
    Marker,
    depth,
    differentiated_within,
    listening,
    measured_at,
)
from polytape.engines.torch.lookups import Entries, looked_up


class GraphRecording:
    def __init__(
        self,
        forward: Forward,
        variables: Callable[[], Sequence[Variable]],
        measure: Marked,
        stand_ins: bool,
    ) -> None:
        self.measure: Measure = measured_at(measure)
        self.lasting = False  # whether it is pulled again after the last time
        marked: list[_Marked] = []
        losses: list[_Marked] = []
        of_losses = _noting(losses) if stand_ins else None
        with torch.enable_grad(), listening(measure, _noting(marked), of_losses):
            scalars, self.outputs = forward()
        self.scalars, self.groups = flattened(scalars)
        self._variables = [raw(variable) for variable in variables()]
        others = [*marked, *losses]
        self.known: list[Any] = [*self._variables, *(each.edge for each in others)]
        self._tensors = [*self._variables, *(each.tensor for each in others)]
        self._moving = [tensor.requires_grad for tensor in self._tensors]  # others are frozen
        count = len(self._variables)
        self.marks = range(count, count + len(marked))
        self.stand_ins = range(self.marks.stop, len(self.known))

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        used = [index for index in cotangents if self.scalars[index].requires_grad]
        if not used or not variables:
            return [None] * len(variables)
        targets = [self.scalars[index] for index in used]
        seeds = [
            seed_like(target, cotangents[index])
            for index, target in zip(used, targets, strict=True)
        ]
        tables = self._tables(targets) if sparse else {}
        moving = [index for index in variables if self._moving[index]]
        asked = [
            edge
            for index in moving
            for edge in (tables[index].edges if index in tables else [self.known[index]])
        ]
        keep = {"retain_graph": self.lasting or not last, "allow_unused": True}
        found = iter(torch.autograd.grad(targets, asked, seeds, **keep) if asked else ())

        def gradient(index: int) -> Any:
            if index in tables:
                entries = tables[index]
                return entries.gradient([next(found) for _ in entries.edges])
            return dense(next(found))

        return [gradient(index) if self._moving[index] else None for index in variables]

    @functools.cached_property
    def _looked_up(self) -> dict[int, Entries]:
        return looked_up(self.scalars, self._variables)

    def _tables(self, targets: Sequence[Tensor]) -> dict[int, Entries]:
        """Those in which these scalars only look up."""
        tables = self._looked_up
        if not any(entries.otherwise for entries in tables.values()):
            return tables
        nodes = set().union(*(_nodes(target.grad_fn) for target in targets))
        return {index: e for index, e in tables.items() if nodes.isdisjoint(e.otherwise)}

    @property
    def plain(self) -> bool:
        """Whether no variable is computed from others, so that `places` knows all, or sparse."""
        return not self._looked_up and all(variable.is_leaf for variable in self._variables)

    def places(self, nodes: Iterable[Any]) -> list[int]:
        """The variables at whose leaves a gradient arrives that passes some nodes of the graph."""
        return [self._places[key] for node in nodes if (key := _leaf(node)) in self._places]

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        return {id(variable): place for place, variable in enumerate(self._variables)}

    def zeros(self, variable: int) -> Tensor:
        return torch.zeros_like(self._tensors[variable])

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        # Autograd's graph is at hand: a walk costs nothing, a gradient would cost a backward pass.
        leaves = [get_gradient_edge(v).node if v.requires_grad else None for v in self._variables]
        found = [_nodes(self.scalars[index].grad_fn) for index in scalars]
        return np.array([[leaf in nodes for leaf in leaves] for nodes in found], bool)


def seed_like(target: Tensor, cotangent: Tensor | float) -> Tensor:
    """A cotangent in the type and place of what is differentiated."""
    if isinstance(cotangent, torch.Tensor):
        return cotangent.to(target.device, target.dtype)
    return torch.full((), cotangent, dtype=target.dtype, device=target.device)


def dense(gradient: Tensor | None) -> Tensor | None:
    """Rows are dense: a table of words has another few entries in each."""
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def _leaf(node: Any) -> int | None:
    """The identity of the tensor at which a gradient arrives, if a node of the graph is its end."""
    return None if node.next_functions else id(getattr(node, "variable", None))


class _Marked(NamedTuple):
    """A tensor that was marked, and where gradients come back to it as it was then.

    It may have been changed since, in place: what comes back to it now is another gradient.
    """

    tensor: Tensor
    edge: GradientEdge


class _Mark(torch.autograd.Function):
    """The same tensor anew, so that only what is behind the mark counts.

    No view of it: what changes a view in place becomes part of how the tensor was made.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        del ctx
        return gradients[0]


_MARK = f"{_Mark.__name__}Backward"  # what autograd calls its node


def _noting(marked: list[_Marked]) -> Marker:
    def mark(tensor: Tensor) -> Tensor:
        stand_in = _Mark.apply(tensor if tensor.requires_grad else tensor.detach().requires_grad_())
        marked.append(_Marked(stand_in, get_gradient_edge(stand_in)))
        return stand_in

    return mark


def _nodes(*roots: Any, past_marks: bool = True) -> set[Any]:
    """The nodes of autograd's graph that gradients pass on their way from some, or from None."""
    found: set[Any] = set()
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop()
        if node not in found and (past_marks or node.name() != _MARK):
            found.add(node)
            waiting += [source for source, _ in node.next_functions if source is not None]
    return found


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Marked = "parameters",
    stand_ins: bool = False,
) -> GraphRecording:
    return GraphRecording(forward, variables, measure, stand_ins)


def context(used: Sequence[Tensor | Variable] = ()) -> Any:
    del used  # what is differentiated is told behind the forward pass
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)  # of a checkpoint
    mapped = torch._C._functorch.maybe_current_level()  # by vmap, or a transformation like it
    return hooks, mapped, torch.is_grad_enabled(), torch.compiler.is_compiling(), depth()


def constant(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.is_floating_point())


def used_beside(tensors: Sequence[Tensor], constants: Sequence[Tensor]) -> list[int]:
    leaves: dict[int | None, int] = {id(each): place for place, each in enumerate(constants)}
    nodes = _nodes(*(tensor.grad_fn for tensor in tensors), past_marks=False)
    return sorted({leaves[key] for node in nodes if (key := _leaf(node)) in leaves})


def parameters(module: Any) -> dict[str, Variable] | None:
    return dict(module.named_parameters()) if isinstance(module, torch.nn.Module) else None


def trains(source: Any) -> bool | None:
    return source.requires_grad if isinstance(source, torch.Tensor) else None


def tape(persistent: bool, watch_accessed_variables: bool) -> None:
    del persistent, watch_accessed_variables  # the record is kept by the tensors themselves


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    differentiable = torch.is_grad_enabled()  # not so in `evaluate`, where nothing is kept for it
    with torch.enable_grad(), differentiated_within():
        # A view, so that only what the function does counts.
        stand_ins = [v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in at]
        value = function(stand_ins)
        if not value.requires_grad:
            return [None] * len(stand_ins)
        return list(
            torch.autograd.grad(value, stand_ins, create_graph=differentiable, allow_unused=True)
        )


def pullbacks(
    function: Callable[[list[Tensor]], Sequence[Tensor]],
    at: Sequence[Tensor],
    cotangents: Sequence[Sequence[Tensor]],
) -> list[list[Tensor | None]]:
    with torch.enable_grad():
        stand_ins = [value.detach().requires_grad_() for value in at]
        outputs = function(stand_ins)
    used = [place for place, output in enumerate(outputs) if output.requires_grad]
    if not used:
        return [[None] * len(stand_ins) for _ in cotangents]
    targets = [outputs[place] for place in used]
    found: list[list[Tensor | None]] = []
    for seeds in cotangents:
        cast = [seeds[place].to(outputs[place].dtype) for place in used]
        keep = {"retain_graph": len(found) + 1 < len(cotangents), "allow_unused": True}
        found.append(list(torch.autograd.grad(targets, stand_ins, cast, **keep)))
    return found


def jacobian(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    with torch.enable_grad():
        stand_ins = [value.detach().requires_grad_() for value in at]
        entries = function(stand_ins).unbind()
    table = [
        torch.autograd.grad(entry, stand_ins, retain_graph=True, allow_unused=True)
        for entry in entries
    ]
    columns = zip(*table, strict=True)
    return [None if column[0] is None else torch.stack(column) for column in columns]


def raw(variable: Variable) -> Any:
    """The tensor of PyTorch that a variable of Keras holds, or what else was given."""
    return variable.value if isinstance(variable, keras.Variable) else variable
