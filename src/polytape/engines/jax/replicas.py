"""Replicas: none as a rule, since `keras.distribution` spreads arrays, and a step sees them whole.

Where the rows of a step are scattered it runs once for each device, on its part of the batch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from polytape.engines.contract import Tensor
from polytape.engines.jax.slices import group, summed


def replica_count() -> int:
    replicas = group()
    return 1 if replicas is None else replicas.size


def replica_index() -> Tensor:
    replicas = group()
    if replicas is None:
        return jnp.zeros((), "int32")
    return jax.lax.axis_index(replicas.axis)


def all_reduce(tensors: Sequence[Tensor]) -> list[Tensor]:
    return summed(tensors)


def refusal(model: Any, fits: bool = False) -> str | None:
    del fits  # the same everywhere
    if group() is not None:
        return None
    if axes := _manual_axes():
        return (
            f"inside a shard_map or pmap over {', '.join(map(repr, axes))} each device has a part "
            "of the batch, and would combine the gradients of that part as if there were no other. "
            "Leave it out: spread the arrays, by keras.distribution.DataParallel or jax.device_put "
            "with a NamedSharding, and call a jitted step on the whole of them"
        )
    return _elsewhere(model) if isinstance(model, keras.layers.Layer) else None


def _manual_axes() -> tuple[str, ...]:
    """Along which axes what is traced here runs once for each device."""
    if "get_abstract_mesh" not in dir(jax.sharding):  # before 0.6, where nobody tells in public
        return ()
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def _elsewhere(model: keras.layers.Layer) -> str | None:
    """Why the variables of a model do not go with the distribution there is; None if they do."""
    distribution = keras.distribution.distribution()
    mesh = None if distribution is None else distribution.device_mesh.backend_mesh
    optimizer = getattr(model, "optimizer", None)
    for variable in [*model.variables, *(() if optimizer is None else optimizer.variables)]:
        value = variable._value  # as an epoch runs there is none
        if not isinstance(value, jax.Array) or isinstance(value, jax.core.Tracer):
            continue
        devices = value.sharding.device_set
        if mesh is not None and devices != {*mesh.devices.flat}:
            return (
                f"{variable.path!r} is on {_counted(len(devices))}, and the distribution has "
                f"{_counted(mesh.devices.size)}: it was made outside of that. Call "
                "keras.distribution.set_distribution(...) before model and optimizer are made, and "
                "carry weights over with save_weights and load_weights"
            )
        if mesh is None and len(devices) > 1:
            return (
                f"{variable.path!r} is on {_counted(len(devices))}, and there is no distribution "
                "now: the model was built under one. Train it under the same, or carry its weights "
                "over with save_weights and load_weights to a model that is made without one"
            )
    return None


def _counted(devices: int) -> str:
    return "one device" if devices == 1 else f"{devices} devices"
