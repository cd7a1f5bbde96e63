"""What the last update did to the losses of the batch that it was made with."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from polytape.contract import Evidence, LossesBeforeAfter, Method, State, Tensor, ops, received
from polytape.contract.arguments import flags, numbers
from polytape.evidence.base import Kind


class BeforeAfter(Kind):
    """`evidence["last"]`: a `LossesBeforeAfter` of the step before, by a second forward pass."""

    name: ClassVar[str] = "losses_before_after"
    key: ClassVar[str] = "last"
    cost: ClassVar[str] = "2 F + B"
    second_forward: ClassVar[bool] = True

    def initial(self, names: Sequence[str]) -> LossesBeforeAfter:
        zeros = np.zeros((len(names),), "float32")
        return LossesBeforeAfter(zeros, zeros.copy(), np.zeros((len(names),), "bool"))

    def advanced(self, state: State, evidence: Evidence) -> State:
        """Taken account of: there is none until the update has been looked at."""
        del state
        none = self.initial(evidence.names)
        return keras.tree.map_structure(ops.convert_to_tensor, none)

    def after_update(self, before: Tensor, after: Tensor, active: Tensor) -> LossesBeforeAfter:
        seen = active & ops.isfinite(before) & ops.isfinite(after)
        return LossesBeforeAfter(ops.where(seen, before, 0.0), ops.where(seen, after, 0.0), seen)

    def check_given(self, method: Method, value: Any, shape: tuple[int, ...]) -> Any:
        del method
        if value is None:
            return None
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            raise TypeError(
                "`last` is (before, after, active): the losses of the last step's batch before "
                f"and after its update, and who took part. {received(value)}"
            )
        before, after = (
            numbers(f"last.{name}", values, shape, finite=True)
            for name, values in zip(("before", "after"), value, strict=False)
        )
        return LossesBeforeAfter(before, after, flags("last.active", value[2], shape))
