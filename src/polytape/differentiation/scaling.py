"""The scale of a loss scaling that the caller does."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor, received


def factor_of(caller: str, scale: Callable[[Tensor], Tensor] | Tensor | float | None) -> Any:
    """What every loss is to be multiplied by, () float32; 1.0 if there is no loss scaling.

    scale  what scales a loss, or the number itself

    Raises `TypeError` if it is neither. Warns where there should be one.
    """
    if scale is None:
        if keras.config.dtype_policy().name == "mixed_float16":
            warnings.warn(
                f"{caller} under the policy mixed_float16 without a loss scale: small gradients "
                "vanish, and a LossScaleOptimizer would divide these by a scale that they never "
                "had. Give scale=optimizer.scale_loss, and leave the losses unscaled, so that the "
                "optimizer learns of an overflow; or scale=1.0 if there is no scaling.",
                UserWarning,
                stacklevel=3,
            )
        return 1.0
    found = scale(ops.ones((), "float32")) if callable(scale) else scale
    if isinstance(found, bool) or not (ops.is_tensor(found) or isinstance(found, (int, float))):
        raise TypeError(
            f"`scale` of {caller} is what scales a loss: optimizer.scale_loss of Keras, "
            f"scaler.scale of PyTorch, or a number. {received(scale)}"
        )
    found = ops.cast(found, "float32")
    if len(found.shape) != 0:
        raise ValueError(
            f"`scale` of {caller} is one number. Received shape: {tuple(found.shape)}."
        )
    return found
