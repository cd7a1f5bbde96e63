"""What a training step changes, and how it is run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._functorch.config as functorch

from polytape.engines.absent import present
from polytape.engines.contract import Tensor, Variable


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.no_grad()(function)


def survey(function: Callable[[], Any]) -> None:
    with torch.random.fork_rng():
        function()


def compiled_step(step: Callable[..., Any], variables: Sequence[Variable]) -> Callable[..., Any]:
    del variables  # they are updated in place
    return step


def choose(first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    return one() if bool(first) else other()


def without_side_effects(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    kept = [variable.value.clone() for variable in changing]
    with torch.random.fork_rng(), torch.no_grad():  # Dropout draws from the global generator
        found = function()
    for variable, value in zip(changing, kept, strict=True):
        variable.assign(value)
    return found


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    if bool(accept):
        with torch.no_grad():
            for variable, value in zip(variables, values, strict=True):
                variable.value.copy_(value)


def restore_if_nonfinite(variable: Variable, value: Tensor) -> None:
    # Not written where there is nothing to mend: it may be a weight of a frozen layer, which the
    # backward pass must find untouched.
    assign([variable], [value], ~torch.isfinite(variable.value).all())


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
    exact: bool = False,
) -> None:
    del exact  # it always is
    if not optimizer.built:
        optimizer.build(variables)
    if bool(accept):
        with torch.no_grad():
            optimizer.apply(*present(gradients, variables))


def prepare(model: Any) -> None:
    if model.jit_compile:
        # A graph that is differentiated once per objective must keep its buffers.
        functorch.donated_buffer = False


def snapshot(model: Any) -> None:
    del model  # variables are updated in place and never taken away


def restore_snapshot(kept: None) -> None:
    del kept


def readable(variable: Variable) -> bool:
    del variable  # it is updated in place and never taken away
    return True


def train_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    del model
    return step(data)
