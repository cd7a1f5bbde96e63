"""Methods for loops of one's own: `Combiner` holds the state, `weigh` is the maths alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.catalogue import resolve
from polytape.contract import Evidence, Look, Method, State, Tensor, ask
from polytape.jacobian import Gradients, path_of
from polytape.settlement import Settlement, check_private, draw


def weigh(
    method: str | Method,
    gramian: Any = None,
    losses: Any = None,
    state: State | None = None,
    *,
    names: Sequence[str] | None = None,
    active: Any = None,
    step: int = 0,
    seed: int = 0,
    cross: Any = None,
    last: Look | None = None,
) -> tuple[Tensor, State]:
    """Weights of a method for a given Gramian: the maths, without a network.

    method   a method or its name
    gramian  (..., T, T) inner products of the gradients, symmetric and positive semi-definite;
             may be left out for methods that need losses only
    losses   (..., T); ones if left out
    state    what the previous call returned; None starts afresh
    names    T objective names; "0", "1", ... if left out
    active   (..., T) bool; False leaves an objective out. All are active if left out
    step     optimizer steps taken so far;  seed  for methods that draw random numbers
    cross    (..., T, T) inner products of the gradients on one half of the batch with those on the
             other, for methods that need "halves"
    last     `Look(before, after, active)`: losses of the last step's batch before and after its
             update, for methods that take a second look
    returns  weights (..., T) float32, and the next state

    Raises `ValueError` if the Gramian is not square, not symmetric, has an entry that is not
    finite or a clearly negative eigenvalue, or if its size does not fit the losses or the state.
    Arrays that are traced (inside jit or tf.function) are checked for shape only.

    >>> import polytape as pt
    >>> weights, state = pt.weigh(pt.Mean(), [[1.0, 0.0], [0.0, 4.0]])
    >>> [float(w) for w in weights]
    [0.5, 0.5]
    """
    method = resolve(method)
    evidence = _evidence(method, gramian, losses, names, active, step, seed)
    initial = method.init(evidence.names, tuple(evidence.losses.shape[:-1]))
    if state is None:
        state = keras.tree.map_structure(ops.convert_to_tensor, initial)
    _check_state(state, initial)
    if method.needs == "halves" and cross is None:
        raise ValueError(
            f"{type(method).__name__} compares the gradients of two half batches: give `cross`, "
            "their inner products J_1 @ J_2.T. Received: cross=None."
        )
    if cross is not None:
        cross = ops.cast(ops.convert_to_tensor(cross), "float32")
    if last is not None:
        last = Look(*map(ops.convert_to_tensor, last))
    evidence = dataclasses.replace(evidence, cross=cross, last=last)
    return ask(method, evidence, state)


@keras.saving.register_keras_serializable(package="polytape")
class Combiner(keras.layers.Layer):
    """A method with its state, for loops of one's own: gradients in, one update out.

    method   a method or its name
    private  what variables reached by one objective take: "own" (its gradient, times the weights
             that a loss-weighting stage gives the objective), "weighted" (times the combined
             weight) or "joint" (they take part in the Gramian as if shared)
    seed     for methods that draw random numbers

    `combiner(grads)` returns a list of update directions, one per variable in the order given to
    `pt.gradients`, None where no objective reaches it. Its state and step count are non-trainable
    variables of this layer: they are saved with a model that holds it, and inside `jax.jit` they go
    through `keras.StatelessScope` as those of any layer (call `prepare` before tracing).

    A non-finite loss or gradient leaves its objective out for the step and never enters the state;
    if none is left, the update is zero.

    >>> import keras, polytape as pt
    >>> w = keras.Variable([1.0, 2.0])
    >>> combiner = pt.Combiner(pt.UPGrad())
    >>> grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
    >>> update = combiner(grads)
    >>> len(update)
    1
    """

    def __init__(
        self, method: str | Method, private: str = "own", seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.method = resolve(method)
        self.private = check_private(private)
        self.seed = seed
        self.steps: Any = None
        self._before: Any = None  # the losses of the last update, and which of them took part
        self._settlement: Settlement | None = None

    def prepare(self, objectives: Sequence[str], variables: Sequence[Any]) -> None:
        """Create the state now instead of at the first call."""
        self._prepare(tuple(objectives), tuple(path_of(variable) for variable in variables))

    def _prepare(self, names: tuple[str, ...], paths: tuple[str, ...]) -> Settlement:
        known = self._settlement
        if known is None:
            self.steps = self.add_weight(
                name="steps", shape=(), dtype="int32", initializer="zeros", trainable=False
            )
            known = Settlement(self.method, names, paths, self.add_weight, self.private, self.seed)
            self._settlement = known
            self.built = True
        if (known.names, known.paths) != (names, paths):
            raise ValueError(
                f"This Combiner holds the state of objectives {known.names} over "
                f"{len(known.paths)} variables. Received gradients of {names} over {len(paths)} "
                "variables. Use one Combiner for each set of objectives and variables."
            )
        return known

    def __call__(self, gradients: Gradients) -> list[Tensor | None]:
        """Update directions, one per variable; the state moves on."""
        if not isinstance(gradients, Gradients):
            raise TypeError(
                "A Combiner takes what pt.gradients(...) returned. "
                f"Received: an object of type {type(gradients).__name__}."
            )
        connectivity = gradients.connectivity
        settlement = self._prepare(connectivity.names, connectivity.paths)
        everyone = ops.ones((len(connectivity.names),), dtype="bool")
        if self.private == "joint":
            gradients = gradients.joint()
        update, _, active, state = settlement.settle(gradients, everyone, self.steps.value)
        settlement.state.write(state, ops.any(active))
        self._before = [*gradients.losses.values()], active
        self.steps.assign_add(1)
        return update

    def look_again(self, losses: Mapping[str, Any]) -> None:
        """Tell what the last update did, for methods that take a second look (FAMO).

        losses  {objective name: scalar loss} of the same batch, after the optimizer's step
        """
        settlement = self._settlement
        if settlement is None or self._before is None:
            raise RuntimeError("look_again() follows an update: call the Combiner first.")
        before, active = self._before
        after = [losses[name] for name in settlement.names]
        settlement.look_again(before, after, active, ops.any(active))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        method = keras.saving.serialize_keras_object(self.method)
        return {**config, "method": method, "private": self.private, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Combiner":
        method = keras.saving.deserialize_keras_object(config["method"])
        return cls(**{**config, "method": method})


def _evidence(
    method: Method, gramian: Any, losses: Any, names: Any, active: Any, step: int, seed: int
) -> Evidence:
    if gramian is None and losses is None:
        raise ValueError("pt.weigh needs a Gramian, losses, or both. Received neither.")
    if gramian is None and method.needs != "losses":
        raise ValueError(
            f"{type(method).__name__} weighs gradients: it needs a Gramian. Received: gramian=None."
        )
    if gramian is not None:
        check_gramian(gramian)
        gramian = ops.cast(ops.convert_to_tensor(gramian), "float32")
    shape = tuple(gramian.shape[:-1]) if losses is None else np.shape(losses)
    losses = np.ones(shape, "float32") if losses is None else losses
    losses = ops.cast(ops.convert_to_tensor(losses), "float32")
    _check_sizes(tuple(losses.shape), gramian, names, active)
    on = ops.ones(shape, dtype="bool") if active is None else ops.convert_to_tensor(active)
    if gramian is not None:
        gramian = ops.where(ops.logical_and(on[..., :, None], on[..., None, :]), gramian, 0.0)
    names = tuple(names) if names else tuple(map(str, range(shape[-1])))
    step = ops.cast(step, "int32")
    return Evidence(ops.where(on, losses, 0.0), gramian, on, names, step, draw(seed, step))


def _check_sizes(shape: tuple[int, ...], gramian: Any, names: Any, active: Any) -> None:
    if not shape:
        raise ValueError("Expected losses of shape (..., T), one per objective. Received: ().")
    if gramian is not None and tuple(gramian.shape) != (*shape, shape[-1]):
        raise ValueError(
            f"Expected a Gramian of shape {(*shape, shape[-1])}, one row per loss. "
            f"Received: {tuple(gramian.shape)}."
        )
    if names and len(names) != shape[-1]:
        raise ValueError(
            f"Expected {shape[-1]} names, one per objective. Received: {tuple(names)}."
        )
    if active is not None and tuple(np.shape(active)) != shape:
        raise ValueError(
            f"Expected `active` of shape {shape}, one entry per objective. "
            f"Received shape: {tuple(np.shape(active))}."
        )


def _check_state(state: State, initial: State) -> None:
    received, expected = (
        [tuple(np.shape(leaf)) for leaf in keras.tree.flatten(tree)] for tree in (state, initial)
    )
    if received != expected:
        raise ValueError(
            "The state does not belong to this method and number of objectives: expected arrays "
            f"of shape {expected}. Received: {received}. Pass what the previous call returned, or "
            "None to start afresh."
        )


def check_gramian(gramian: Any) -> None:
    """Raise unless a Gramian is square and, if its values are known, finite, symmetric and PSD."""
    shape = tuple(np.shape(gramian))
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(
            "A Gramian is square, (..., T, T): the inner products of T gradients. "
            f"Received shape: {shape}. For gradients stacked in a (T, n) matrix J it is J @ J.T."
        )
    try:
        values = np.asarray(ops.convert_to_numpy(gramian), "float64")
    except Exception:  # traced: there are no values to check
        return
    if not np.isfinite(values).all():
        raise ValueError(
            "The Gramian has entries that are not finite. A loss or gradient overflowed or is "
            "NaN; leave that objective out with `active=`."
        )
    size = max(float(np.abs(values).max()), np.finfo("float64").tiny)
    if np.abs(values - values.swapaxes(-1, -2)).max() > 1e-4 * size:
        raise ValueError(
            "The Gramian is not symmetric, so it is not a matrix of inner products. "
            "Expected J @ J.T."
        )
    lowest = float(np.linalg.eigvalsh(values / size).min())
    if lowest < -1e-4 * shape[-1]:
        raise ValueError(
            "The Gramian is not positive semi-definite: its lowest eigenvalue is "
            f"{lowest * size:.3g}, its largest entry {size:.3g}. Inner products J @ J.T cannot "
            "give that; cosines averaged over steps or hand-made entries can."
        )
