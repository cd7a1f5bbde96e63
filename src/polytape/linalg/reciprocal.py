"""Division by sizes that may be zero."""

import numpy as np

from polytape.contract import Tensor, ops

_TINY = float(np.finfo("float32").tiny)


def reciprocal(size: Tensor) -> Tensor:
    """One over numbers (...) >= 0; zero where they are zero, so always finite.

    Numbers below the normal range of float32 count as zero on every backend.
    """
    known = size >= _TINY
    return ops.where(known, 1.0 / ops.where(known, size, 1.0), 0.0)


def logarithm(size: Tensor) -> Tensor:
    """Logarithm of numbers (...) >= 0; zero where `reciprocal` is, so always finite."""
    return ops.log(ops.where(size >= _TINY, size, 1.0))


def or_one(size: Tensor) -> Tensor:
    """Numbers (...) >= 0 to divide by: one in place of zero."""
    return ops.where(size > 0, size, ops.ones_like(size))
