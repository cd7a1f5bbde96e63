"""What an engine provides: differentiation of several scalars after one forward pass.

One engine per framework, chosen by Keras's backend; nothing else in polytape imports a framework.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Tensor = Any
Variable = Any
Forward = Callable[[], tuple[Sequence[Tensor], Any]]


class Recording(Protocol):
    """One forward pass that can be differentiated several times."""

    scalars: Sequence[Tensor]  # what `forward` returned first: scalar losses
    outputs: Any  # what it returned second

    def pull(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int]
    ) -> list[Tensor | None]:
        """Gradient of sum_s cotangents[s] * scalars[s] for some of the variables, by index.

        Only the part of the network between those scalars and those variables is differentiated.
        None where no path exists.
        """
        ...

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        """(len(scalars), V) bool: which scalar has a differentiable path to which variable."""
        ...


class Engine(Protocol):
    """The functions of `engines/tensorflow.py`, `engines/jax.py` and `engines/torch.py`."""

    def record(self, forward: Forward, variables: Sequence[Variable]) -> Recording:
        """Run `forward` once, so that its scalars can be differentiated.

        Side effects on other variables (BatchNorm statistics, seeds, metrics) happen once.
        """
        ...

    def flatten(self, rows: Sequence[Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Gradients of one variable as a (rows, n) float32 matrix, and the way back from (n,).

        Sparse gradients stay sparse: n counts the touched entries only.
        """
        ...

    def finite(self, gradients: Sequence[Tensor]) -> Tensor:
        """() bool: whether no gradient has an entry that is not finite."""
        ...

    def island(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of tensors made fast to call from inside a step (compiled, if that helps)."""
        ...

    def apply(
        self,
        optimizer: Any,
        gradients: Sequence[Tensor | None],
        variables: Sequence[Variable],
        accept: Tensor,
    ) -> None:
        """One optimizer step where `accept` () bool is true, and no change at all elsewhere."""
        ...

    def train_step(self, model: Any, step: Callable[[Any], Any], *args: Any) -> Any:
        """Keras's `train_step` in the signature of this backend, around a stateful `step(data)`."""
        ...
