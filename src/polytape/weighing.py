"""The maths of a method alone, for a given Gramian: no network, no variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from polytape.aggregation.seeds import base_of, drawn_from, seed_dtype
from polytape.aggregation.weights import compiled_once, is_known
from polytape.catalogue import resolve
from polytape.catalogue.names import MethodLike
from polytape.contract import (
    Evidence,
    Method,
    State,
    Tensor,
    check_objective_names,
    check_seed,
    did_you_mean,
    evaluate,
    in_float32,
    is_whole,
    ops,
    received,
)
from polytape.contract.arguments import flags, known, numbers, real
from polytape.engines import engine
from polytape.evidence import Kind, evidence_keys, kinds_of


@in_float32
def weigh(
    method: MethodLike,
    gramian: Any = None,
    losses: Any = None,
    state: State | None = None,
    *,
    names: Sequence[str] | None = None,
    active: Any = None,
    step: int = 0,
    seed: int = 0,
    cross: Any = None,
    last: tuple[Any, Any, Any] | None = None,
    traces: Any = None,
    **more: Any,
) -> tuple[Tensor, State]:
    """Weights of a method for a given Gramian: the maths, without a network.

    Arrays that are traced (inside jit or tf.function) are checked for shape only.

    Args:
        method: a method or its name
        gramian: (..., T, T) inner products of the gradients, symmetric and positive semi-definite;
            may be left out for methods that need losses only
        losses: (..., T); ones if left out
        state: what the previous call returned; None starts afresh
        names: T objective names; "0", "1", ... if left out
        active: (..., T) bool; False leaves an objective out. All are active if left out
        step: optimizer steps taken so far
        seed: for methods that draw random numbers
        cross: (..., T, T) inner products of the gradients on one half of the batch with those on
            the other, for methods that read "half_batches"
        last: `(before, after, active)`, (..., T) each: losses of the last step's batch before and
            after its update, and who took part, for methods that read "losses_before_after"
        traces: (..., T) mean squared norms of the gradients of single samples' residuals, zero
            where they are not measured in this step, for methods that read "sample_traces"
        **more: further evidence that a method reads, by its key: `previous`, (..., T), the losses
            of the step before

    Returns:
        Weights (..., T) float32, and the next state.

    Raises:
        ValueError: If the Gramian is not square, not symmetric, has an entry that is not finite or
            a clearly negative eigenvalue, or if its size does not fit the losses or the state.

    Example:
        >>> import polytape as pt
        >>> weights, state = pt.weigh(pt.Mean(), [[1.0, 0.0], [0.0, 4.0]])
        >>> [float(w) for w in weights]
        [0.5, 0.5]
    """
    method = resolve(method)
    asked = _asked_of(method)
    given = {"cross": cross, "last": last, "traces": traces, **more}
    _check_keys(method, asked.kinds, given)
    tensors = _tensors(method, gramian, losses, names, active, step)
    shape = tuple(tensors["losses"].shape)
    names = check_objective_names(names) if names else tuple(map(str, range(shape[-1])))
    initial = method.init(names, shape[:-1])
    if state is None:
        state = initial
    else:
        _check_state(state, initial)
    values = {}
    for kind in asked.kinds:
        if kind.key and (value := kind.check_given(method, given.get(kind.key), shape)) is not None:
            values[kind.key] = value
    base = np.array(base_of(check_seed(seed)), seed_dtype())
    weights, state = asked.answer(names, (tensors, values, state, base))
    if (found := known(weights)) is not None and not np.isfinite(found).all():
        raise FloatingPointError(
            f"{type(method).__name__} came to weights that are not finite, {found.tolist()}: on "
            "these numbers they leave the range of float32. Scale the losses, or choose less "
            "extreme hyper-parameters. In training such a step is left out."
        )
    return weights, state


class _Asked:
    """A method that is asked for weights, again and again."""

    def __init__(self, method: Method) -> None:
        self.method, self.kinds = method, kinds_of(method)
        self._compiled: dict[tuple[str, ...], Callable[..., Any]] = {}

    def answer(self, names: tuple[str, ...], given: tuple[Any, ...]) -> tuple[Tensor, State]:
        """Weights and the next state, by what was compiled for these names."""
        if keras.backend.backend() == "numpy":
            return self._question(names)(*given)
        if not _is_outside(given):
            return self._question(names)(*_as_tensors(given))
        if names not in self._compiled:
            self._compiled[names] = compiled_once(self._question(names), self._content(names))
        return self._compiled[names](*given)

    def _content(self, names: tuple[str, ...]) -> list[Any]:
        return [self.method, self.kinds, names]

    def is_known(self) -> bool:
        """Whether all that the method depends on is seen, and stays."""
        return is_known(self._content(()))

    def _question(self, names: tuple[str, ...]) -> Callable[..., tuple[Tensor, State]]:
        """What the method says to the evidence that a caller gives: a pure function."""
        method, kinds = self.method, self.kinds

        def answer(
            tensors: Mapping[str, Tensor], values: Mapping[str, Any], state: State, base: Tensor
        ) -> tuple[Tensor, State]:
            """Weights and the next state.

            tensors  losses, active, step and perhaps a Gramian;  base  of the seed
            values   {key: value} of further kinds
            """
            on, step = tensors["active"], tensors["step"]
            losses = ops.where(on, tensors["losses"], 0.0)
            gramian = tensors.get("gramian")
            if gramian is not None:
                both = ops.logical_and(on[..., :, None], on[..., None, :])
                gramian = ops.where(both, gramian, 0.0)
            readings = {}
            for kind in kinds:
                if kind.key in values:
                    readings[kind.key] = kind.reading(values[kind.key]).among(on)
            seed = drawn_from(base, step)
            evidence = Evidence(losses, gramian, on, names, step, seed, readings=readings)
            return evaluate(method, evidence, state)

        return answer


_known_methods: dict[
    int, _Asked
] = {}  # by identity: they hold the method, so that it stays its own


def _asked_of(method: Method) -> _Asked:
    found = _known_methods.get(id(method))
    if found is None:
        found = _Asked(method)
        if found.is_known():
            if len(_known_methods) >= 64:
                _known_methods.clear()
            _known_methods[id(method)] = found
    return found


def _is_outside(nest: Any) -> bool:
    """Whether all values of a nest are there already, and nobody differentiates by them."""
    if isinstance(nest, (np.ndarray, np.generic)):
        return True
    if isinstance(nest, Mapping):
        nest = nest.values()
    elif not isinstance(nest, (tuple, list)):
        return engine().has_value(nest) and not getattr(nest, "requires_grad", False)
    return all(map(_is_outside, nest))


def _as_tensors(nest: Any) -> Any:
    return keras.tree.map_structure(ops.convert_to_tensor, nest)


def _check_keys(method: Method, kinds: Sequence[Kind], given: Mapping[str, Any]) -> None:
    """Raise for evidence that does not exist."""
    keys = evidence_keys()
    for key in given:
        if key not in keys:
            own = [kind.key for kind in kinds if kind.key]
            raise TypeError(
                f"pt.weigh got the evidence {key!r}, which does not exist."
                f"{did_you_mean(key, sorted(keys))} {type(method).__name__} reads "
                f"{', '.join(map(repr, own)) or 'none beyond losses and Gramian'}."
            )


def _tensors(
    method: Method, gramian: Any, losses: Any, names: Any, active: Any, step: int
) -> dict[str, Tensor]:
    """What every method may read, checked: losses, active, step, and the Gramian if there is one.

    Tensors of the caller stay where they are; the rest is in arrays.
    """
    if gramian is None and losses is None:
        raise ValueError("pt.weigh needs a Gramian, losses, or both. Received neither.")
    if gramian is None and method.needs != "losses":
        raise ValueError(
            f"{type(method).__name__} weighs gradients: it needs a Gramian. Received: gramian=None."
        )
    found = {}
    if gramian is not None:
        found["gramian"] = real("gramian", gramian)
        check_gramian(found["gramian"])
    if losses is None:
        found["losses"] = np.ones(tuple(found["gramian"].shape[:-1]), "float32")
    else:
        found["losses"] = real("losses", losses)
    shape = tuple(found["losses"].shape)
    _check_sizes(shape, found.get("gramian"), names)
    found["active"] = np.ones(shape, bool) if active is None else flags("active", active, shape)
    if losses is not None:
        values, on = known(found["losses"]), known(found["active"])
        if values is not None and on is not None:
            numbers("losses", np.where(on, values, 0.0), shape, finite=True)
    if not ops.is_tensor(step) and (not is_whole(step) or step < 0):
        raise ValueError(f"`step` counts optimizer steps, from 0. {received(step)}")
    found["step"] = ops.cast(step, "int32") if ops.is_tensor(step) else np.array(step, "int32")
    return found


def _check_sizes(shape: tuple[int, ...], gramian: Any, names: Any) -> None:
    if shape and shape[-1] == 0:
        raise ValueError("There is no objective: T = 0. Give the losses or gradients of one.")
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


def _check_state(state: State, initial: State) -> None:
    shapes, expected = (
        [tuple(np.shape(leaf)) for leaf in keras.tree.flatten(tree)] for tree in (state, initial)
    )
    if shapes != expected:
        raise ValueError(
            "The state does not belong to this method and number of objectives: expected arrays "
            f"of shape {expected}. Received: {shapes}. Pass what the previous call returned, or "
            "None to start afresh."
        )
    for leaf in keras.tree.flatten(state):
        if (found := known(leaf)) is not None and not np.isfinite(found).all():
            raise ValueError(
                "The state has entries that are not finite, so all later weights would. Pass what "
                "a call with finite losses returned, or None to start afresh."
            )


def check_gramian(gramian: Any) -> None:
    """Raise unless a Gramian is square and, if its values are known, finite, symmetric and PSD."""
    shape = tuple(np.shape(gramian))
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(
            "A Gramian is square, (..., T, T): the inner products of T gradients. "
            f"Received shape: {shape}. For gradients stacked in a (T, n) matrix J it is J @ J.T."
        )
    if shape[-1] == 0:
        raise ValueError("The Gramian is empty: there is no objective. Received shape: (0, 0).")
    values = known(gramian)
    if values is None:
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
    if (lowest := float(np.linalg.eigvalsh(values / size).min())) < -1e-4 * shape[-1]:
        raise ValueError(
            "The Gramian is not positive semi-definite: its lowest eigenvalue is "
            f"{lowest * size:.3g}, its largest entry {size:.3g}. Inner products J @ J.T cannot "
            "give that; cosines averaged over steps or hand-made entries can."
        )
