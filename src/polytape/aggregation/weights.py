"""From evidence to weights: the T x T part of a method, compiled once for all who do the same."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from polytape.aggregation.seeds import drawn_from
from polytape.aggregation.state import leaves, rebuilt
from polytape.contract import Evidence, Method, Reading, Seed, State, Tensor, evaluate, ops
from polytape.engines import engine
from polytape.evidence import Kind
from polytape.stages.chain import lost


@dataclasses.dataclass(frozen=True)
class Weights:
    """A pure function from the evidence of a step and a state to weights and the next state.

    It holds no tensor, no variable and no model.

    scalarization, combination  the two parts of the method, of which one may be missing
    names     of the T objectives;  blocks  names of the B blocks
    observed  whether the method has seen the rows, already weighted, before they come here
    kinds     of evidence that the method reads
    """

    scalarization: Method | None
    combination: Method | None
    names: tuple[str, ...]
    blocks: tuple[str, ...]
    observed: bool
    kinds: tuple[Kind, ...]

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        measured: Mapping[str, Any],
        state: State,
        seed: Seed,
        reach: np.ndarray | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """Shared weights (T,) or (B, T), private weights (T,), and the next state.

        tensors  losses, active, step and perhaps a Gramian;  measured  {key: value} beyond
        reach    (B, T) bool or None;  lengths  (T,) norms of the gradients, where they are known
        """
        names, blocks = self.names, self.blocks
        given: dict[str, Any] = {"gramian": None, **tensors}
        readings = self._readings(measured, state, given["active"])
        evidence = Evidence(
            seed=seed, names=names, blocks=blocks, reach=reach, readings=readings, **given
        )
        private = ops.cast(evidence.active, "float32")
        lead, rest = state["scalarization"], state["combination"]
        if self.scalarization is not None:
            private, lead = evaluate(self.scalarization, evidence, lead)
        shared = private
        if self.combination is not None:
            scaled = evidence
            if self.scalarization is not None:
                scaled = self._scaled(evidence, private)
                private = lost(private, evidence, scaled)
            weights, rest = evaluate(self.combination, scaled.reseeded(1), rest)
            shared = weights if self.observed else private * weights
        shared, private = _in_range(shared, lengths), _in_range(private, lengths)
        found = {**state, "scalarization": lead, "combination": rest}
        for kind in self.kinds:
            if kind.key in state:
                found[kind.key] = kind.advanced(state[kind.key], evidence)
        if moved := _moved(state, found):
            fine = ops.isfinite(
                ops.sum(ops.stack([ops.sum(ops.cast(m, "float32")) for m in moved]))
            )
            shared, private = (ops.where(fine, w, float("nan")) for w in (shared, private))
        return shared, private, found

    def _readings(
        self, measured: Mapping[str, Any], state: State, active: Tensor
    ) -> dict[str, Reading]:
        found: dict[str, Reading] = {}
        for kind in self.kinds:
            if kind.key in measured:
                found[kind.key] = kind.reading(measured[kind.key]).among(active)
            elif kind.key in state:
                found[kind.key] = kind.reading(kind.remembered(state[kind.key]))
        return found

    def _scaled(self, evidence: Evidence, weights: Tensor) -> Evidence:
        if not self.observed:
            return evidence.scaled(weights)
        # It has seen weighted rows already.
        scaled = dataclasses.replace(evidence, gramian=None, readings={}).scaled(weights)
        return dataclasses.replace(scaled, gramian=evidence.gramian, readings=evidence.readings)


# (tensors, what was measured, the arrays of the state, [lengths] or [], base of the seed) -> what
# `Weights` returns,
# with the arrays of the next state in place of it
Compiled = Callable[
    [dict[str, Tensor], dict[str, Any], list[Tensor], list[Tensor], Tensor | None],
    tuple[Tensor, Tensor, list[Tensor]],
]


def compiled(
    weights: Weights, state: State, reach: np.ndarray | None, seed: Seed | None
) -> Compiled:
    """`weights` made fast to call from inside a step.

    TensorFlow keeps whatever XLA has compiled for as long as the process lives, 16 MB for UPGrad.
    So whoever asks for the same function gets the same: a model that is compiled again, the next
    model of a search.

    state  of the structure that the function is to take; its arrays are not looked at
    seed   of every step; None: drawn from the base that each call brings
    """
    body = _body(weights, rebuilt(state, dict.fromkeys(leaves(state))), reach, seed)
    content = [getattr(weights, field.name) for field in dataclasses.fields(weights)]
    at = None if reach is None else (reach.shape, reach.tobytes())
    return compiled_once(body, [*content, seed], at)


def compiled_once(
    function: Callable[..., Any], content: Sequence[Any], at: Hashable = None
) -> Callable[..., Any]:
    """A function made fast to call: the same one for all who ask for the same.

    content  of methods, kinds, names and numbers: with `at`, all that the function depends on. What
             may change without being told from itself is not kept for others
    """
    asked = _Asked(function, content, at)
    return _make(asked) if asked.identity is None else _shared(asked)


def is_known(content: Sequence[Any]) -> bool:
    """Whether content tells all, so that what is compiled by it is kept for all who ask."""
    return _UNKNOWN not in _atoms(tuple(content))


class _Asked:
    """A function to be compiled; equal to another one where it is known to be the same.

    own  whether all methods in it are polytape's: those of others are written in `keras.ops`
    """

    def __init__(self, function: Callable[..., Any], content: Sequence[Any], at: Hashable) -> None:
        self.function = function
        atoms = (function.__qualname__, *_atoms(tuple(content)))
        self.identity = None if _UNKNOWN in atoms else (atoms, at)
        kinds = [atom[0] for atom in atoms if isinstance(atom, tuple)]
        kinds = [kind for kind in kinds if issubclass(kind, (Method, Kind))]
        self.own = self.identity is not None and all(map(_is_own, kinds))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


_UNKNOWN = "?"  # beside pairs


def _is_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def _atoms(value: Any) -> Iterator[Hashable]:
    """What tells a value from others: types and texts, as 1, 1.0 and True are equal to Python.

    `_UNKNOWN` for what may change, or hold on to a model: schedules, arrays, methods with more than
    their fields, classes made inside a function.
    """
    kind = type(value)
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        yield kind, repr(value)
    elif kind in (tuple, list, dict):
        yield kind, len(value)
        for item in value.items() if kind is dict else value:
            yield from _atoms(item)
    elif isinstance(value, (Method, Kind)) and "<locals>" not in kind.__qualname__:
        names = [field.name for field in dataclasses.fields(value)]
        yield kind, len(names)
        if set(vars(value)) != set(names):
            yield _UNKNOWN
        for name in names:
            yield from _atoms(getattr(value, name))
    else:
        yield _UNKNOWN


def _body(
    weights: Weights, template: State, reach: np.ndarray | None, fixed: Seed | None
) -> Compiled:
    paths = [*leaves(template)]

    def body(
        tensors: dict[str, Tensor],
        measured: dict[str, Any],
        given: list[Tensor],
        known: list[Tensor],
        base: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        state = rebuilt(template, dict(zip(paths, given, strict=True)))
        seed = drawn_from(base, tensors["step"]) if fixed is None else fixed
        shared, private, state = weights(tensors, measured, state, seed, reach, *known)
        found = leaves(state)
        return shared, private, [found[path] for path in paths]

    return body


def _make(asked: _Asked) -> Callable[..., Any]:
    return engine().compiled(asked.function, arrays=asked.own)


# On TensorFlow the bound frees the graphs only; a programme of XLA stays.
_shared = functools.lru_cache(maxsize=64)(_make)


def _in_range(weights: Tensor, lengths: Tensor | None) -> Tensor:
    """Weights (T,) or (B, T), NaN where the squared norm of an update with them is not finite.

    lengths  (T,) norms of the gradients; None: not known, and whoever knows the update looks at it
    """
    if lengths is None:
        return weights
    longest = weights * (lengths * lengths.shape[0])  # of the update, if all are as long
    return ops.where(ops.isfinite(ops.square(longest)), weights, float("nan"))


def _moved(before: State, after: State) -> list[Tensor]:
    """The numbers in a state that a step has changed; weights that a user gave are not of them."""
    old = leaves(before)
    found = leaves(after).items()
    return [new for path, new in found if new is not old[path] and "float" in str(new.dtype)]
