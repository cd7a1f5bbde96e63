"""Gradients for loops of one's own: one forward pass, one gradient per objective."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor, check_objective_names, received
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.jacobian import Gradients, mean_rows, path_of
from polytape.differentiation.measured import Measured
from polytape.engines import Measure, Recording, engine

G = TypeVar("G", bound=Gradients)


def gradients(
    objective_fn: Callable[[], Mapping[str, Any]],
    variables: Sequence[Any],
    measure: Measure = "parameters",
) -> Gradients:
    """The gradient of every objective after one forward pass, on any backend.

    objective_fn  called once, without arguments; returns {objective name: scalar loss}. Everything
                  that is to be differentiated must happen inside it. For methods that need
                  "halves" every loss is a pair: that of one half of the batch, that of the other
    variables     the variables to differentiate by, e.g. `model.trainable_variables`
    measure       where conflict is measured: at the "parameters", or at the "features", tensors
                  that passed a `pt.Features()` layer: then `gramian`, `norms` and `cosines` are
                  over those, and a `Combiner` needs but one backward pass through the network. On
                  JAX "features" runs the function a second time, abstractly, to find their shapes

    Works eagerly, inside `tf.function`, and inside `jax.jit` under a `keras.StatelessScope`.
    Updates of other variables made by `objective_fn` (BatchNorm, seeds) happen once.

    Raises `ValueError` if there are no variables, a loss is not a scalar, or an objective reaches
    no variable; `TypeError` if `objective_fn` does not return a dict.

    >>> import keras, polytape as pt
    >>> w = keras.Variable([1.0, 2.0])
    >>> grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
    >>> tuple(grads.gramian.shape)
    (2, 2)
    """
    if not callable(objective_fn):
        raise TypeError(
            "pt.gradients records the forward pass itself: give a function that computes the "
            f'losses and returns {{"name": loss}}. {received(objective_fn)}'
        )
    variables = check_variables("pt.gradients", variables)
    if measure not in ("parameters", "features"):
        raise ValueError(
            '`measure` of pt.gradients is "parameters" or "features". To measure at the outputs, '
            f"pass them through a pt.Features() layer. Received: {measure!r}."
        )
    names: list[str] = []

    def forward() -> tuple[list[Tensor], None]:
        losses = objective_fn()
        check_objectives(losses)
        names[:] = losses
        return scalars_of(losses), None

    recording = engine().record(forward, lambda: variables, measure)
    if measure == "features":
        return _measured(recording, names, variables)
    found = collected(recording, names, variables, Gradients)
    found.connectivity.check()
    return found


def collected(
    recording: Recording, names: Sequence[str], variables: Sequence[Any], kind: type[G]
) -> G:
    """The gradients of the recorded losses: one for each name, or one of either half batch."""
    values = [ops.stop_gradient(loss) for loss in recording.scalars]
    rows = [recording.pull({t: 1.0}, range(len(variables))) for t in range(len(values))]
    count = len(names)
    halves = (rows[:count], rows[count:]) if len(rows) > count else None
    if halves:
        rows = mean_rows(*halves)
        values = [0.5 * (a + b) for a, b in zip(values[:count], values[count:], strict=True)]
    connectivity = Connectivity.seen(names, [path_of(variable) for variable in variables], rows)
    return kind(dict(zip(names, values, strict=True)), rows, connectivity, halves=halves)


def scalars_of(losses: Mapping[str, Any]) -> list[Tensor]:
    """All losses, or those of the first halves and then those of the second."""
    halves = zip(*map(_halves, losses.values()), strict=True)
    return [loss for half in halves for loss in half]


def _halves(loss: Any) -> tuple[Any, ...]:
    return tuple(loss) if isinstance(loss, (tuple, list)) else (loss,)


def _measured(recording: Recording, names: list[str], variables: list[Any]) -> Measured:
    values = [ops.stop_gradient(loss) for loss in recording.scalars]
    if len(values) != len(names):
        raise ValueError(
            'A pair of losses for the halves of a batch needs measure="parameters". Received: '
            'measure="features".'
        )
    reach = recording.reach(range(len(names)))
    connectivity = Connectivity(tuple(names), tuple(map(path_of, variables)), reach)
    connectivity.check()
    found = Measured(dict(zip(names, values, strict=True)), recording, connectivity)
    _ = found.gramian  # so that errors come now
    return found


def check_variables(caller: str, variables: Any) -> list[Any]:
    """The variables as a list, or an error if there are none or one is there twice."""
    if isinstance(variables, keras.layers.Layer):
        raise TypeError(
            f"{caller} takes a list of variables. Received the network {variables.name!r} itself: "
            "give its trainable_variables."
        )
    if not isinstance(variables, Iterable) or ops.is_tensor(variables):
        raise TypeError(f"{caller} takes a list of variables, [w, b]. {received(variables)}")
    variables = list(variables)
    for index, variable in enumerate(variables):
        if isinstance(variable, (str, np.ndarray, keras.layers.Layer, list, tuple, type(None))):
            raise TypeError(
                f"{caller} takes variables. Number {index} is something else. {received(variable)}"
            )
    if not variables:
        raise ValueError(
            f"{caller} got no variables. A model that was never called has none yet: call it once "
            "on a batch, or pass an Input, before asking for gradients."
        )
    first: dict[int, int] = {}
    for index, variable in enumerate(variables):
        if first.setdefault(id(variable), index) != index:
            raise ValueError(
                f"{caller} got the variable {path_of(variable)!r} twice, as number "
                f"{first[id(variable)]} and {index}: it would be counted and updated twice. Two "
                "networks that share a layer both list its variables; give each one once."
            )
    return variables


def check_objectives(losses: Any) -> None:
    """Raise unless `losses` is a dict of scalar losses."""
    if not isinstance(losses, Mapping) or not losses:
        raise TypeError(
            'The objective function must return a dict {"name": scalar loss} with at least one '
            f"entry. Received: {losses!r} of type {type(losses).__name__}."
        )
    check_objective_names(losses)
    sizes = {name: len(_halves(loss)) for name, loss in losses.items()}
    if set(sizes.values()) not in ({1}, {2}):
        raise ValueError(
            "Every objective has one loss, or every objective has a pair of losses, one for each "
            f"half of the batch. Received: {sizes} losses."
        )
    for name, loss in losses.items():
        for half in _halves(loss):
            check_scalar(name, half)


def check_scalar(name: str, loss: Any) -> None:
    """Raise unless the loss of an objective is a scalar tensor."""
    if not ops.is_tensor(loss) and not isinstance(loss, keras.KerasTensor):
        raise TypeError(
            f"The loss of objective {name!r} is not a tensor. Received: {loss!r} of type "
            f"{type(loss).__name__}. A loss converted to NumPy or to a number has no gradient."
        )
    kind = str(keras.backend.standardize_dtype(loss.dtype))
    if "float" not in kind:
        raise TypeError(
            f"The loss of objective {name!r} is no real floating-point number. Received dtype: "
            f"{kind}. Integers have no gradient: cast what it is made of, not the result. Of a "
            "complex number take keras.ops.real(...) or its absolute value."
        )
    if len(loss.shape) != 0:
        raise ValueError(
            f"The loss of objective {name!r} is not a scalar. Received shape: "
            f"{tuple(loss.shape)}. Reduce it, with keras.ops.mean(...) say, or use a Keras loss "
            'whose `reduction` is not None or "none".'
        )
