"""The contract between methods and everything else: `Evidence` in, weights out.

A method never sees a network. It sees one record of the step (`Evidence`) and returns one weight
per objective; the update is then `J^T w`, the weighted sum of the objectives' gradients. All
arrays may carry leading *block* axes (one Gramian per layer, say), so a method is written once,
over `(..., T)` and `(..., T, T)`, and serves every scope.
"""

import abc
import dataclasses
import difflib
import typing
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import keras
import numpy as np
from keras import ops

Tensor = Any
State = Any  # a pytree of arrays: what `init` returned, with the same structure and shapes
Need = Literal["losses", "gramian", "rows"]
NEEDS: tuple[Need, ...] = ("losses", "gramian", "rows")  # from cheapest to dearest


# --------------------------------------------------------------------------- evidence


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one training step knows about its T objectives.

    losses   (..., T)     float32, weighted values; zero where inactive
    gramian  (..., T, T)  inner products of the gradients over shared variables, units
                          loss^2 / parameter^2, zero rows and columns where inactive; None for
                          methods that need losses only
    active   (..., T)     bool; an inactive objective has no row this step (no label, or not
                          finite): the others are combined as if it did not exist
    names    T strings
    step     ()           int32, optimizer steps taken so far
    seed                  a `Seed` to hand to `keras.random` functions; fresh each step
    reach    (B, T)       bool NumPy array if the Gramian is a stack of B blocks that no scope has
                          claimed yet (then `losses` and `active` are (T,)); None otherwise
    """

    losses: Tensor
    gramian: Tensor | None
    active: Tensor
    names: tuple[str, ...]
    step: Tensor
    seed: "Seed"
    reach: np.ndarray | None = None

    @property
    def count(self) -> Tensor:
        """Number of active objectives, (..., 1), float32, at least one."""
        return ops.maximum(ops.sum(ops.cast(self.active, "float32"), axis=-1, keepdims=True), 1.0)

    @property
    def norms(self) -> Tensor:
        """Gradient norm of each objective, (..., T)."""
        return ops.sqrt(ops.diagonal(self.gramian, axis1=-2, axis2=-1))

    def scaled(self, weights: Tensor) -> "Evidence":
        """The evidence of the objectives multiplied by `weights`, (..., T)."""
        losses, gramian = self.losses, self.gramian
        if len(weights.shape) == len(losses.shape):
            losses = losses * weights
        if gramian is not None:
            gramian = gramian * weights[..., :, None] * weights[..., None, :]
        return dataclasses.replace(self, losses=losses, gramian=gramian)

    def total(self) -> "Evidence":
        """One Gramian for the whole model instead of a stack of blocks."""
        if self.reach is None or self.gramian is None:
            return dataclasses.replace(self, reach=None)
        return dataclasses.replace(self, gramian=ops.sum(self.gramian, axis=0), reach=None)

    def per_block(self) -> "Evidence":
        """Every block as a problem of its own: all arrays get the leading block axis."""
        if self.reach is None:
            return self
        active = ops.logical_and(self.active[None], ops.convert_to_tensor(self.reach))
        losses = ops.where(active, self.losses[None], 0.0)
        return dataclasses.replace(self, losses=losses, active=active, reach=None)

    def reseeded(self, salt: int) -> "Evidence":
        """The same evidence with other random numbers, for the `salt`-th user of the seed."""
        return dataclasses.replace(self, seed=self.seed.shifted(salt)) if salt else self


class Seed(keras.random.SeedGenerator):
    """One drawn seed in a form that `keras.random` accepts: `keras.random.normal(..., seed=seed)`.

    Holds a (2,) integer tensor and, unlike its parent, no variable: the same seed draws the same
    numbers each time it is used, so whoever draws twice shifts it.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def next(self, ordered: bool = True) -> Tensor:
        del ordered
        return self.value

    def shifted(self, salt: int) -> "Seed":
        return Seed(self.value + ops.cast(salt * 7919, self.value.dtype))


# --------------------------------------------------------------------------- rules


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between `low` and `high`; an end named in `open` is excluded."""

    low: float = -np.inf
    high: float = np.inf
    open: str = ""  # "low", "high" or "low high"
    optional: bool = False

    def admits(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            return False
        above = value > self.low if "low" in self.open else value >= self.low
        below = value < self.high if "high" in self.open else value <= self.high
        return bool(above and below)

    def inadmissible(self) -> Iterator[Any]:
        yield from ("0.5x", float("nan"))
        if np.isfinite(self.low):
            yield self.low if "low" in self.open else self.low - 1
        if np.isfinite(self.high):
            yield self.high if "high" in self.open else self.high + 1
        if not self.optional:
            yield None

    def __str__(self) -> str:
        left = "(" if "low" in self.open or np.isinf(self.low) else "["
        right = ")" if "high" in self.open or np.isinf(self.high) else "]"
        return f"a number in {left}{self.low:g}, {self.high:g}{right}{' or None' * self.optional}"


@dataclasses.dataclass(frozen=True)
class Integer(Range):
    """A whole number between `low` and `high`."""

    def admits(self, value: Any) -> bool:
        whole = value is None or isinstance(value, (int, np.integer))
        return whole and super().admits(value)

    def inadmissible(self) -> Iterator[Any]:
        yield from super().inadmissible()
        yield self.low + 0.5 if np.isfinite(self.low) else 0.5

    def __str__(self) -> str:
        return super().__str__().replace("a number", "a whole number")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]

    def admits(self, value: Any) -> bool:
        return any(value is v or (type(value) is type(v) and value == v) for v in self.values)

    def inadmissible(self) -> Iterator[Any]:
        yield from ("no such choice", -1)

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(v) for v in self.values)


@dataclasses.dataclass(frozen=True)
class Preference:
    """One positive number per objective, or None for no preference; only proportions count."""

    def admits(self, value: Any) -> bool:
        if value is None:
            return True
        positive = Range(0.0, open="low high")
        return isinstance(value, tuple) and bool(value) and all(positive.admits(v) for v in value)

    def inadmissible(self) -> Iterator[Any]:
        yield from ((), (1.0, 0.0), (1.0, float("nan")), (float("inf"),), 0.5, "sum")

    def __str__(self) -> str:
        return "a tuple of positive numbers, one per objective, or None"


Rule = Range | OneOf | Preference
Scale = Annotated[str, OneOf(("sum", "mean", "paper"))]


# --------------------------------------------------------------------------- method


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A way to settle several objectives: a frozen record of hyper-parameters, one pure function.

    To add a method, write a frozen dataclass with `weigh` in a file of its own; see
    CONTRIBUTING.md. What a subclass declares:

    needs       the dearest evidence it reads: "losses" (one backward pass in all), "gramian" (T
                passes) or "rows" (T passes and the rows themselves)
    natural     what the published weights of equal gradients add up to: "sum" (each weight one) or
                "mean" (together one). `ask` converts to the method's `scale` field. None if the
                method has no such scale, as those of a degree other than 1 in the loss scale
    guarantees  laws it promises beyond the common ones; certified by `polytape.testing`
    exempt      {law: reason} for common laws that it breaks by nature
    """

    needs: ClassVar[Need] = "gramian"
    natural: ClassVar[str | None] = None
    reference: ClassVar[str] = ""
    guarantees: ClassVar[frozenset[str]] = frozenset()
    exempt: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        key = _key(cls.__name__)
        taken = _REGISTRY.get(key)
        if taken is not None and (taken.__module__, taken.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(
                f"Two methods are called {cls.__name__}: one in {taken.__module__}, one in "
                f"{cls.__module__}. Rename one of them."
            )
        _REGISTRY[key] = cls
        keras.saving.register_keras_serializable(package="polytape")(cls)

    def __post_init__(self) -> None:
        for name, rule in _rules(type(self)).items():
            value = getattr(self, name)
            if not rule.admits(value):
                raise ValueError(
                    f"{type(self).__name__}({name}={value!r}): `{name}` must be {rule}. "
                    f"Received: {value!r} of type {type(value).__name__}."
                )

    # What the engine plans by. Wrappers and chains answer for what they hold.

    @property
    def scope(self) -> str | None:
        """None for one Gramian over all shared variables, else "variable" or "network"."""
        return None

    @property
    def period(self) -> int:
        """Fresh evidence is needed in one step out of this many."""
        return 1

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        """Initial state: a pytree of NumPy arrays, `()` if the method has none.

        names   the T objectives
        blocks  leading axes of the weights: () for one Gramian, (B,) inside a scope
        """
        del names, blocks
        return ()

    @abc.abstractmethod
    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        """Weights (..., T) at the method's natural scale, and the next state. Call via `ask`."""

    def combine(self, rows: Tensor, seed: Seed) -> Tensor:
        """Direction (n,) of one variable from its rows (T, n), already multiplied by the weights.

        Only methods that need "rows" change this; inactive rows are zero.
        """
        del seed
        return ops.sum(rows, axis=0)

    def get_config(self) -> dict[str, Any]:
        return {
            field.name: _serialize(getattr(self, field.name)) for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Method":
        return cls(**{name: _deserialize(value) for name, value in config.items()})


def ask(method: Method, evidence: Evidence, state: State) -> tuple[Tensor, State]:
    """Weights of a method for the evidence it is entitled to, on the scale it was given.

    Everything around `weigh` that no method should repeat: an unscoped method sees one Gramian,
    inactive objectives weigh zero, and `scale` is applied. Wrappers ask their inner method.
    """
    if method.scope is None:
        evidence = evidence.total()
    weights, state = method.weigh(evidence, state)
    if evidence.reach is None:
        weights = ops.where(evidence.active, weights, ops.zeros_like(weights))
    wanted = getattr(method, "scale", "paper")
    if method.natural is not None and wanted not in ("paper", method.natural):
        weights = weights * evidence.count if wanted == "sum" else weights / evidence.count
    return weights, state


# --------------------------------------------------------------------------- registry

_REGISTRY: dict[str, type[Method]] = {}


def _key(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def registered() -> dict[str, type[Method]]:
    """All methods and stages known so far, by lower-case name."""
    return dict(_REGISTRY)


def find(name: str) -> type[Method]:
    """The method of that name, in any spelling ("upgrad", "IMTL-G"); errors offer the nearest."""
    found = _REGISTRY.get(_key(name))
    if found is None:
        nearest = difflib.get_close_matches(_key(name), _REGISTRY, n=3, cutoff=0.4)
        hint = ", ".join(f'"{_REGISTRY[key].__name__.lower()}"' for key in nearest)
        raise ValueError(
            f"Unknown method: {name!r}. "
            + (f"Did you mean {hint}? " if hint else "")
            + "`polytape methods` lists them all."
        )
    return found


# --------------------------------------------------------------------------- helpers


def _rules(cls: type[Method]) -> dict[str, Rule]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for name, hint in hints.items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Rule):
                found[name] = extra
    return found


def inadmissible_values(cls: type[Method]) -> Iterator[tuple[str, Any]]:
    """Pairs (field, value) that the rules of a method refuse: the tests try every one."""
    for name, rule in _rules(cls).items():
        for value in rule.inadmissible():
            yield name, value


def _serialize(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {key: _serialize(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_serialize(item) for item in value]
    return keras.saving.serialize_keras_object(value)


def _deserialize(value: Any) -> Any:
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _deserialize(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_deserialize(item) for item in value)
    return value
