"""PyTorch: autograd over a retained graph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import torch
import torch._functorch.config as functorch

from polytape.engines.contract import Forward, Tensor, Variable

FUSES = False


class _Recording:
    def __init__(self, forward: Forward, variables: Callable[[], Sequence[Variable]]) -> None:
        with torch.enable_grad():
            self.scalars, self.outputs = forward()
        self._variables = [_raw(variable) for variable in variables()]

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
        sources = [self._variables[index] for index in variables]
        return list(
            torch.autograd.grad(targets, sources, seeds, retain_graph=True, allow_unused=True)
        )

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        everything = range(len(self._variables))
        found = [self.pull({index: 1.0}, everything) for index in scalars]
        return np.array([[gradient is not None for gradient in row] for row in found], bool)


def record(forward: Forward, variables: Callable[[], Sequence[Variable]]) -> _Recording:
    return _Recording(forward, variables)


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
            optimizer.apply(gradients, variables)


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
