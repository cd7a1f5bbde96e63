"""Gradients of which each replica holds some coordinates, where a step runs as replicas."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polytape.engines.contract import Tensor

try:
    from jax import shard_map
except ImportError:  # before 0.6
    from jax.experimental.shard_map import shard_map  # type: ignore[no-redef]


_CHECKS = ("check_vma", "check_rep")


class Group(NamedTuple):
    """The replicas of a step: one for each device along an axis of the mesh."""

    axis: str
    size: int


_running: ContextVar[Group | None] = ContextVar("replicas", default=None)


def group() -> Group | None:
    """That of the step being traced; None where it is not one of several."""
    return _running.get()


def replicated(
    function: Callable[..., Any], mesh: Any, axis: str, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """A function that runs once for each device along an axis, on its part of the arguments."""

    def run(*args: Any) -> Any:
        with _as_one_of(Group(axis, mesh.shape[axis])):
            return function(*args)

    # What comes out is the same on all, which JAX cannot tell. The name of its check has changed.
    unchecked: Any = {name: False for name in signature(shard_map).parameters if name in _CHECKS}
    return shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **unchecked)


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor summed over the replicas."""
    replicas = group()
    if replicas is None or not tensors:
        return list(tensors)
    return list(jax.lax.psum(list(tensors), replicas.axis))


@contextmanager
def _as_one_of(replicas: Group) -> Iterator[None]:
    token = _running.set(replicas)
    try:
        yield
    finally:
        _running.reset(token)


@dataclass(frozen=True)
class Slice:
    """A replica's part of the coordinates of a gradient: (n / N,), with zeros to fill the last.

    shape, dtype  of the whole
    """

    part: Tensor
    shape: tuple[int, ...]
    dtype: Any


def reduce_scatter(gradients: Sequence[Tensor]) -> list[Any]:
    """Gradients summed over replicas; each holds a slice of every one. In one go for each dtype."""
    replicas = group()
    if replicas is None:
        return list(gradients)
    found: list[Any] = [None] * len(gradients)
    for places in _by_dtype(gradients):
        cut = [_cut(gradients[place], replicas.size) for place in places]
        whole = jnp.concatenate(cut, axis=1)
        own = jax.lax.psum_scatter(whole, replicas.axis, scatter_dimension=0)
        for place, part in zip(places, _split(own, [c.shape[1] for c in cut]), strict=True):
            like = gradients[place]
            found[place] = Slice(part, like.shape, like.dtype)
    return found


def gathered(gradients: Sequence[Any]) -> list[Any]:
    """The same whole on each replica, None and what is whole already as they are."""
    found, replicas = list(gradients), group()
    places = [place for place, g in enumerate(found) if isinstance(g, Slice)]
    if replicas is None or not places:
        return found
    slices = [found[place] for place in places]
    for among in _by_dtype(slices):
        own = jnp.concatenate([slices[i].part for i in among])
        whole = jax.lax.all_gather(own, replicas.axis)  # (N, ...)
        parts = _split(whole, [slices[i].part.size for i in among])
        for i, part in zip(among, parts, strict=True):
            shape = slices[i].shape
            flat = part.reshape(-1)[: math.prod(shape)]
            found[places[i]] = flat.reshape(shape).astype(slices[i].dtype)
    return found


def _cut(gradient: Tensor, count: int) -> Tensor:
    """(N, n / N), filled with zeros."""
    return jnp.pad(gradient.reshape(-1), (0, -gradient.size % count)).reshape(count, -1)


def _split(joined: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes) - 1)]
    return jnp.split(joined, ends, axis=-1)


def _by_dtype(gradients: Sequence[Any]) -> list[list[int]]:
    """Places of gradients that can lie in one array."""
    kinds: dict[str, list[int]] = {}
    for place, gradient in enumerate(gradients):
        kinds.setdefault(str(gradient.dtype), []).append(place)
    return [*kinds.values()]
