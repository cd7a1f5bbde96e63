"""Where a framework tells as a layer is called whether somebody else differentiates through it."""

from collections.abc import Sequence

from keras import ops

from polytape.engines.contract import Tensor


def constant(value: Tensor) -> Tensor:
    return ops.stop_gradient(value)


def used_beside(tensors: Sequence[Tensor], constants: Sequence[Tensor]) -> list[int]:
    del tensors, constants  # `context` has told
    return []
