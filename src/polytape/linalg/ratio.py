"""Ratios of losses, or of norms, that are always finite."""

from polytape.contract import Tensor, ops


def ratio(value: Tensor, reference: Tensor) -> Tensor:
    """`value / reference` elementwise, at most 1e15; one where there is none to speak of.

    That is where the value is negative, or the reference is zero or negative. At most 1e15, so
    that squares and sums of ratios stay finite in float32.

    >>> from keras import ops
    >>> [float(r) for r in ratio(ops.array([3.0, 0.0, 3.0, -3.0]), ops.array([2.0, 2.0, 0.0, 2.0]))]
    [1.5, 0.0, 1.0, 1.0]
    """
    known = ops.logical_and(reference > 0, value >= 0)
    found = ops.where(known, value, 1.0) / ops.where(known, reference, 1.0)
    return ops.minimum(found, 1e15)
