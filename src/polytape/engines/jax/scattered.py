"""A training step run once for each device, on its part of the batch, with its rows in slices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.sharding import PartitionSpec

from polytape.engines.contract import Tensor, Variable
from polytape.engines.jax.scope import Scope
from polytape.engines.jax.slices import Group, group, replicated

_STRIDE = 0x9E3779B9  # between the seeds of two devices


def scatter_refusal() -> str | None:
    """Why rows cannot be scattered over the devices there are; None if they can."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return (
            "there is no distribution: call keras.distribution.set_distribution("
            "keras.distribution.DataParallel()) before the model is made"
        )
    if not isinstance(distribution, keras.distribution.DataParallel):
        return (
            f"{type(distribution).__name__} spreads the variables, and their gradients lie where "
            "they do already"
        )
    mesh = distribution.device_mesh.backend_mesh
    if mesh.shape[distribution.batch_dim_name] == 1:
        return "there is one device"
    return None


def scattered_step(
    model: Any,
    step: Callable[[Any], Any],
    groups: Sequence[Sequence[Variable]],
    state: Any,
    data: Any,
    same: Sequence[Variable],
) -> tuple[Any, Any]:
    """Logs and the new values of the variables, the same on all devices.

    groups  the variables of `state`; same  those that come out alike on all devices by themselves
    """
    distribution = keras.distribution.distribution()
    axis = distribution.batch_dim_name

    def local(state: Any, data: Any) -> tuple[Any, Any]:
        replicas = group()
        assert replicas is not None  # noqa: S101  (it is what runs this)
        return _on_one(model, step, groups, state, data, {*map(id, same)}, replicas)

    whole = PartitionSpec()
    parts = jax.tree.map(lambda _: PartitionSpec(axis), data)
    mesh = distribution.device_mesh.backend_mesh
    return replicated(local, mesh, axis, (whole, parts), whole)(state, data)


def _on_one(
    model: Any,
    step: Callable[[Any], Any],
    groups: Sequence[Sequence[Variable]],
    state: Any,
    data: Any,
    same: set[int],
    replicas: Group,
) -> tuple[Any, Any]:
    before = {
        id(variable): (variable, value)
        for variables, values in zip(groups, state, strict=True)
        for variable, value in zip(variables, values, strict=True)
    }
    own = jax.lax.axis_index(replicas.axis).astype("uint32") * jnp.uint32(_STRIDE)
    seeds = {key for key, (variable, _) in before.items() if "seed_generator" in variable.path}
    mapping = [
        (variable, value.at[0].add(own) if key in seeds else value)
        for key, (variable, value) in before.items()
    ]
    _, others, _, metrics = ({*map(id, variables)} for variables in groups)
    with Scope(mapping) as scope:
        logs = step(data)
        for key, variable in list(scope.touched.items()):
            if key not in before or key in same or variable.aggregation == "only_first_replica":
                continue
            old: Tensor = before[key][1]
            new: Tensor = scope.get_current_value(variable)
            if key in seeds:
                scope.add_update((variable, new.at[0].add(-own)))
            elif key in metrics:
                scope.add_update((variable, _added(old, new, replicas)))
            elif key in others:
                scope.add_update((variable, _agreed(new, replicas)))
        results = model.get_metrics_result()  # of all samples; those in the logs are of one device
        logs = {
            name: results[name] if name in results else _agreed(jnp.asarray(value), replicas)
            for name, value in logs.items()
        }
    return logs, tuple([scope.get_current_value(v) for v in each] for each in groups)


def _added(before: Tensor, after: Tensor, replicas: Group) -> Tensor:
    """What a sum of samples comes to if each device has added its own.

    One that was NaN has begun anew wherever it is a number now.
    """
    if not jnp.issubdtype(before.dtype, jnp.inexact):
        return before + jax.lax.psum(after - before, replicas.axis)
    fresh = jnp.isnan(before)
    began = fresh & ~jnp.isnan(after)
    more = jnp.where(after == before, 0, after - before)
    more = jnp.where(fresh, jnp.where(began, after, 0), more)
    some = jax.lax.psum(began.astype(before.dtype), replicas.axis) > 0
    total = jnp.where(fresh, 0, before) + jax.lax.psum(more, replicas.axis)
    return jnp.where(fresh & ~some, before, total)


def _agreed(value: Tensor, replicas: Group) -> Tensor:
    """One value for all devices: the mean, or that of the first where it is no real number."""
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jax.lax.pmean(value, replicas.axis)
    first = jax.lax.axis_index(replicas.axis) == 0
    whole = value.astype("int32") if value.dtype == bool else value
    return jax.lax.psum(jnp.where(first, whole, 0), replicas.axis).astype(value.dtype)
