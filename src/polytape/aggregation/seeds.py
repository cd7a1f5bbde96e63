"""The seeds of methods that draw random numbers."""

import functools
import random

import keras

from polytape.contract import Seed, Tensor, ops


def draw(seed: int, step: Tensor) -> Seed:
    """The seed of a step under a base seed."""
    return drawn_from(base_of(seed), step)


def base_of(seed: int) -> int:
    """The part of every step's seed that depends on the base seed alone."""
    return (seed * 7368787) % 2**30


def drawn_from(base: int | Tensor, step: Tensor) -> Seed:
    """The seed of a step; `base`, if it is a tensor, of `seed_dtype`."""

    def value() -> Tensor:
        # PyTorch's generator reads the first number only, so step and seed both go into it.
        count = ops.cast(step, seed_dtype())
        start = base if isinstance(base, int) else ops.convert_to_tensor(base)
        return ops.stack([count * 40503 + start, count])

    return Seed(value)


@functools.cache
def seed_dtype() -> str:
    """The integer type of this backend's seeds."""
    return str(keras.random.SeedGenerator(0).state.dtype)


def peeked() -> int:
    """A base seed that follows `keras.utils.set_random_seed`.

    That seeds Python's generator; drawing from a copy does not shift the numbers that layers built
    later will draw.
    """
    copy = random.Random()
    copy.setstate(random.getstate())
    return copy.randrange(2**20)
