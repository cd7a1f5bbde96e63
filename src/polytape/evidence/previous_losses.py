"""The losses on the batch before."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from polytape.contract import Evidence, Method, PerObjective, State, Tensor, ops
from polytape.contract.arguments import numbers
from polytape.evidence.base import Kind


class PreviousLosses(Kind):
    """`evidence["previous"]`, (..., T): of each objective the loss, weighted as this step's are,
    in the last step in which it was active; NaN before there was one.
    """

    name: ClassVar[str] = "previous_losses"
    key: ClassVar[str] = "previous"

    def initial(self, names: Sequence[str]) -> State:
        return {"losses": np.zeros((len(names),), "float32"), "seen": np.zeros(len(names), "bool")}

    def remembered(self, state: State) -> Tensor:
        return ops.where(state["seen"], state["losses"], float("nan"))

    def reading(self, value: Tensor) -> PerObjective:
        return PerObjective(value)

    def advanced(self, state: State, evidence: Evidence) -> State:
        losses = ops.where(evidence.active, evidence.losses, state["losses"])
        return {"losses": losses, "seen": ops.logical_or(state["seen"], evidence.active)}

    def check_given(self, method: Method, value: Any, shape: tuple[int, ...]) -> Tensor:
        del method
        if value is None:
            return ops.full(shape, float("nan"))
        return numbers("previous", value, shape, finite=False)
