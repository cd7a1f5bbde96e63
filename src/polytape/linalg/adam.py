"""Adam for the few numbers per objective that some methods train themselves."""

import math
from typing import NamedTuple

import numpy as np

from polytape.contract import Tensor, ops


class Moments(NamedTuple):
    """Moving averages of a gradient, not yet corrected for their start at zero; (..., T) float32.

    mean  of the gradient
    root  root of that of its square: the square itself would leave float32 beyond 1e19
    seen  number of gradients taken in
    """

    mean: Tensor
    root: Tensor
    seen: Tensor


def no_moments(shape: tuple[int, ...]) -> Moments:
    """The moments before the first gradient, as NumPy arrays."""
    return Moments(*(np.zeros(shape, "float32") for _ in range(3)))


class Trained(NamedTuple):
    """Numbers (..., T) that a method trains by Adam, and their moments."""

    value: Tensor
    moments: Moments

    def descended(self, gradient: Tensor, rate: float, active: Tensor) -> "Trained":
        """After one step of Adam down the gradient (..., T) of a function of them."""
        step, moments = adam(self.moments, gradient, rate, active)
        return Trained(self.value + step, moments)


def untrained(shape: tuple[int, ...]) -> Trained:
    """Zeros that have never been trained, as NumPy arrays."""
    return Trained(np.zeros(shape, "float32"), no_moments(shape))


def adam(
    moments: Moments,
    gradient: Tensor,
    rate: float,
    active: Tensor | None = None,
    decays: tuple[float, float] = (0.9, 0.999),
) -> tuple[Tensor, Moments]:
    """One step of Adam: what to add to the numbers so that a function falls, and the next moments.

    gradient  (..., T)  of the function to be lowered, float32, finite
    rate      length of a step along which all gradients agree
    active    (..., T)  bool; entries that are not keep their moments and move by zero. All, if None
    decays    of the two moving averages, those of the paper

    Source: Kingma & Ba 2015, Algorithm 1, with one count of steps for each entry and without their
    epsilon, so that a gradient may be multiplied by any number: the first step is `rate` times the
    sign of the gradient whatever its size. An entry whose gradients were all zero stays put. For
    weight decay add a multiple of the numbers to the gradient.

    >>> from keras import ops
    >>> moments = Moments(*map(ops.convert_to_tensor, no_moments((2,))))
    >>> step, moments = adam(moments, ops.array([3.0, -1e-12]), rate=0.1)
    >>> [round(float(s), 6) for s in step]
    [-0.1, 0.1]
    """
    active = ops.ones_like(gradient, dtype="bool") if active is None else active
    first, second = decays
    seen = moments.seen + 1.0
    mean = first * moments.mean + (1.0 - first) * gradient
    unit = ops.maximum(moments.root, ops.abs(gradient))
    moved = ops.logical_and(active, unit > 0)
    unit = ops.where(unit > 0, unit, 1.0)
    old, new = moments.root / unit, gradient / unit
    root = unit * ops.sqrt(second * ops.square(old) + (1.0 - second) * ops.square(new))
    # Not `1 - decay ** seen`: that loses four digits of the first steps in float32.
    bias = -ops.expm1(seen * math.log(first))
    spread = ops.sqrt(-ops.expm1(seen * math.log(second)))
    step = -rate * (mean / ops.where(root > 0, root, 1.0)) * (spread / bias)
    return ops.where(moved, step, 0.0), Moments(
        mean=ops.where(active, mean, moments.mean),
        root=ops.where(active, root, moments.root),
        seen=ops.where(active, seen, moments.seen),
    )
