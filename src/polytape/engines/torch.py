"""PyTorch: autograd over a retained graph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import torch
import torch._functorch.config as functorch
from torch.autograd.graph import get_gradient_edge

from polytape.engines.absent import present
from polytape.engines.contract import Forward, Measure, Tensor, Variable
from polytape.engines.marking import listening

FUSES = False


class _Recording:
    def __init__(
        self, forward: Forward, variables: Callable[[], Sequence[Variable]], measure: Measure
    ) -> None:
        self.measure: Measure = measure
        self._marked: list[Tensor] = []
        with torch.enable_grad(), listening(measure, self._mark):
            self.scalars, self.outputs = forward()
        self._variables = [_raw(variable) for variable in variables()]
        count = len(self._variables)
        self.marks = range(count, count + len(self._marked))

    def _mark(self, tensor: Tensor) -> Tensor:
        stand_in = tensor.view_as(tensor)  # so that only what is behind the mark counts
        if not stand_in.requires_grad:
            stand_in = tensor.detach().requires_grad_()
        self._marked.append(stand_in)
        return stand_in

    def pull(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int]
    ) -> list[Tensor | None]:
        used = [index for index in cotangents if self.scalars[index].requires_grad]
        if not used or not variables:
            return [None] * len(variables)
        targets = [self.scalars[index] for index in used]
        seeds = [
            torch.as_tensor(cotangents[index], dtype=target.dtype, device=target.device)
            for index, target in zip(used, targets, strict=True)
        ]
        known = [*self._variables, *self._marked]
        sources = [known[index] for index in variables]
        return list(
            torch.autograd.grad(targets, sources, seeds, retain_graph=True, allow_unused=True)
        )

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        # Autograd's graph is at hand: a walk costs nothing, a gradient would cost a backward pass.
        leaves = [get_gradient_edge(v).node if v.requires_grad else None for v in self._variables]
        found = [_nodes(self.scalars[index].grad_fn) for index in scalars]
        return np.array([[leaf in nodes for leaf in leaves] for nodes in found], bool)


def _nodes(root: Any) -> set[Any]:
    """The nodes of autograd's graph that a gradient passes on its way from `root`."""
    found: set[Any] = set()
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [source for source, _ in node.next_functions if source is not None]
    return found


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Measure = "parameters",
) -> _Recording:
    return _Recording(forward, variables, measure)


def tape() -> None:
    return None  # the record is kept by the tensors themselves


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    differentiable = torch.is_grad_enabled()  # not so in `evaluate`, where nothing is kept for it
    with torch.enable_grad():
        # A view, so that only what the function does counts.
        stand_ins = [v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in at]
        value = function(stand_ins)
        if not value.requires_grad:
            return [None] * len(stand_ins)
        return list(
            torch.autograd.grad(value, stand_ins, create_graph=differentiable, allow_unused=True)
        )


class _Rows:
    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._shape, self._dtype = gradients[0].shape, gradients[0].dtype
        self._matrix = torch.stack([g.reshape(-1).to(torch.float32) for g in gradients])

    def gram(self) -> Tensor:
        return self._matrix @ self._matrix.T

    def sums(self) -> list[Tensor]:
        return list(self._matrix.sum(dim=1))

    def matrix(self) -> Tensor:
        return self._matrix

    def blend(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        matrix = self._matrix
        if kept is not None:
            matrix = torch.where(kept[:, None], matrix, torch.zeros_like(matrix))
        return self.restore(weights @ matrix)

    def restore(self, flat: Tensor) -> Tensor:
        return flat.reshape(self._shape).to(self._dtype)


def rows(gradients: Sequence[Tensor]) -> _Rows:
    return _Rows(gradients)


def dense(gradient: Tensor) -> Tensor:
    return gradient.to(torch.float32)


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    return total + torch.where(condition, gradient, torch.zeros_like(gradient))


def zeros_like(gradient: Tensor) -> Tensor:
    return torch.zeros_like(gradient)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    sums = [gradient.sum(dtype=torch.float32) for gradient in gradients]
    return torch.isfinite(torch.stack(sums)).all()


def island(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.no_grad()(function)


def aside(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    kept = [variable.value.clone() for variable in changing]
    with torch.random.fork_rng(), torch.no_grad():  # Dropout draws from the global generator
        found = function()
    for variable, value in zip(changing, kept, strict=True):
        variable.assign(value)
    return found


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    if bool(accept):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
) -> None:
    if not optimizer.built:
        optimizer.build(variables)
    if bool(accept):
        with torch.no_grad():
            optimizer.apply(*present(gradients, variables))


def prepare(model: Any) -> None:
    if model.jit_compile:
        # A graph that is differentiated once per objective must keep its buffers.
        functorch.donated_buffer = False


def keep(model: Any) -> None:
    del model  # variables are updated in place and never taken away


def recover(kept: None) -> None:
    del kept


def train_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    del model
    return step(data)


def _raw(variable: Variable) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
