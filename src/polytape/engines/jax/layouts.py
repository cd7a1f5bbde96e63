"""Where arrays lie under `keras.distribution`: beside the variables that they belong to."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

from polytape.engines.contract import Tensor, Variable


def is_spread() -> bool:
    """Whether arrays are on several devices."""
    return keras.distribution.distribution() is not None


def placed(rank: int, beside: Variable | None) -> dict[str, Any]:
    # Told, since a `LayoutMap` would find a layout for another number of axes by the names.
    distribution = keras.distribution.distribution()
    if distribution is None:
        return {}
    leading = 0 if beside is None else rank - len(beside.shape)
    layout = _layout(beside)
    if leading < 1 or layout is None:
        mesh = distribution.device_mesh.backend_mesh
        return {"layout": NamedSharding(mesh, PartitionSpec())}
    axes = (None,) * leading
    return {"layout": NamedSharding(layout.mesh, PartitionSpec(*axes, *layout.spec))}


def flat(array: Tensor, beside: Variable | None) -> Tensor:
    parts = _parts(beside)
    if parts is None:
        return array.reshape(array.shape[0], -1)
    # Each axis of n as k devices times n / k; and what makes up one device comes together.
    layout, counts = parts
    rank = len(counts)
    spec = PartitionSpec(None, *layout.spec)
    array = jax.lax.with_sharding_constraint(array, NamedSharding(layout.mesh, spec))
    sizes = zip(counts, array.shape[1:], strict=True)
    cut = array.reshape(-1, *(part for k, n in sizes for part in (k, n // k)))
    places = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)]
    found = cut.transpose(places).reshape(array.shape[0], -1)
    return jax.lax.with_sharding_constraint(found, NamedSharding(layout.mesh, _joined(layout)))


def unflat(flat: Tensor, shape: Sequence[int], beside: Variable | None) -> Tensor:
    parts = _parts(beside)
    if parts is None:
        return flat.reshape(-1, *shape)
    layout, counts = parts
    rank = len(counts)
    cut = flat.reshape(-1, *counts, *(n // k for k, n in zip(counts, shape, strict=True)))
    places = [0, *(place for axis in range(1, rank + 1) for place in (axis, axis + rank))]
    found = cut.transpose(places).reshape(-1, *shape)
    spec = PartitionSpec(None, *layout.spec)
    return jax.lax.with_sharding_constraint(found, NamedSharding(layout.mesh, spec))


def _layout(variable: Variable | None) -> NamedSharding | None:
    """On which devices the parts of a variable of Keras are."""
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(variable, keras.Variable):
        return None
    found = distribution.get_variable_layout(variable)
    if isinstance(found, keras.distribution.TensorLayout):
        found = found.backend_layout
    return found


def _parts(variable: Variable | None) -> tuple[NamedSharding, list[int]] | None:
    """The layout of a variable, and into how many parts each axis is cut; None if none is."""
    layout = _layout(variable)
    if variable is None or layout is None or not any(layout.spec):
        return None
    spec = [*layout.spec, *[None] * (len(variable.shape) - len(layout.spec))]
    return layout, [math.prod(layout.mesh.shape[name] for name in _names(axis)) for axis in spec]


def _joined(layout: NamedSharding) -> PartitionSpec:
    """That of two axes, of which the second is all axes of a variable in one."""
    return PartitionSpec(None, tuple(name for axis in layout.spec for name in _names(axis)))


def _names(axis: Any) -> tuple[str, ...]:
    """The axes of the mesh that an axis of an array is spread over."""
    if axis is None:
        return ()
    return (axis,) if isinstance(axis, str) else tuple(axis)
