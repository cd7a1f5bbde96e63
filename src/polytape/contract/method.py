"""The method: a frozen record of hyper-parameters and one pure function."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import numpy as np

from polytape.contract import ops
from polytape.contract.evidence import Evidence, Seed, Tensor
from polytape.contract.precision import in_float32
from polytape.contract.registry import register
from polytape.contract.rules import rules_of

State = Any  # a pytree of arrays: what `init` returned, with the same structure and shapes
Need = Literal["losses", "gramian", "rows"]
NEEDS: tuple[Need, ...] = ("losses", "gramian", "rows")  # in the order of their price


class Observed(NamedTuple):
    """What a method makes of the rows of one variable, before they are weighed.

    rows      (..., T, n)  what takes their place: in the Gramian and in the update
    memory    {name: (..., T, n)}  the arrays of `Method.memory` for the next step
    measures  (..., T, k)  statistics for `weigh`, which finds those of all variables in
                           `evidence["measures"]`; None if it wants none
    offset    (..., n)     added to the update of the variable as it is; None if nothing is
    """

    rows: Tensor
    memory: dict[str, Tensor]
    measures: Tensor | None = None
    offset: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A way to settle several objectives: a frozen record of hyper-parameters, one pure function.

    To add a method, write a frozen dataclass with `weigh` in a file of its own; see
    CONTRIBUTING.md. What a subclass declares:

    Attributes:
        needs: what its weights come from: "losses" (one backward pass in all; they multiply the
            loss itself), "gramian" (T passes) or "rows" (T passes and the rows themselves)
        evidence: names of further kinds of evidence that it reads, each a file in `evidence/` that
            says what it is, what it costs and which key it has: "half_batches", "sample_traces",
            "losses_before_after", "previous_losses", "compressed_gradients", "epoch_metrics",
            "round_robin"
        constant: whether its weights depend on nothing but its state and the step, so that they are
            known before the losses are
        memory: None, or the names of float32 arrays that it keeps beside the rows, zero at first
            and as large as they are: T times the trainable variables each, saved with the model.
            Such a method needs "rows", and `observe` sees them before `weigh`; () for one that only
            wants to see them
        native_scale: what the published weights of equal gradients add up to: "sum" (each weight
            one) or "mean" (together one). `evaluate` converts to the method's `scale` field. None
            if the method has no such scale, as those of a degree other than 1 in the loss scale
        reference: authors and place of the publication, as `polytape methods` prints it
        guarantees: laws it promises beyond the common ones; certified by `polytape.testing`
        exempt: {law: reason} for common laws that it breaks by nature
    """

    needs: ClassVar[Need] = "gramian"
    constant: ClassVar[bool] = False
    evidence: ClassVar[tuple[str, ...]] = ()
    memory: ClassVar[tuple[str, ...] | None] = None
    native_scale: ClassVar[str | None] = None
    reference: ClassVar[str] = ""
    guarantees: ClassVar[frozenset[str]] = frozenset()
    exempt: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    def __post_init__(self) -> None:
        for name, rule in rules_of(type(self)).items():
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

    @property
    def samples(self) -> int:
        """How many samples "sample_traces" are of; a field of methods that read these."""
        return 0

    @property
    def counts(self) -> bool:
        """Whether a method that keeps no state reads the number of steps made."""
        return False

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        """Initial state: a pytree of NumPy arrays, `()` if the method has none.

        Args:
            names: the T objectives
            blocks: leading axes of the weights: () for one Gramian, (B,) inside a scope

        Returns:
            A pytree of NumPy arrays: dicts and named tuples, whose keys name the variables that
            hold them.
        """
        del names, blocks
        return ()

    def states(self) -> dict[str, "Method"]:
        """{entry of its state: the method that this is the state of}; "" for the whole of it.

        Variables of the state are named by it. Wrappers with an entry named as the field that
        holds the method need not say so.

        Returns:
            A dict of the methods inside this one.
        """
        fields = dataclasses.fields(self)
        held = {field.name: getattr(self, field.name) for field in fields}
        return {name: value for name, value in held.items() if isinstance(value, Method)}

    @abc.abstractmethod
    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        """Weights (..., T) at the method's native scale, and the next state. Call by `evaluate`.

        Args:
            evidence: what the step knows of its T objectives
            state: what `init` or the last step returned

        Returns:
            Weights (..., T) float32, and the next state, of the same structure, shapes and dtypes.
        """

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        """What becomes of the rows (..., T, n) of one variable. Called before `weigh`.

        Only for methods with a `memory`. The evidence has no Gramian yet, and the state is the one
        that `weigh` is about to get. Inactive rows are zero; whatever is returned for them is
        discarded: their memory stays. Rows are zero, too, where an objective does not reach the
        variable.

        Args:
            rows: (..., T, n) float32
            memory: {name: (..., T, n) float32} of the last step, zero at first
            evidence: as of `weigh`, without a Gramian
            state: as of `weigh`

        Returns:
            An `Observed`: rows, memory, and what else it has to say.
        """
        del evidence, state
        return Observed(rows, memory)

    @property
    def sums_rows(self) -> bool:
        """Whether `combine` is a sum, which needs no coordinates of rows in one place.

        Returns:
            True unless a class writes a `combine` of its own.
        """
        return type(self).combine is Method.combine

    def combine(self, rows: Tensor, seed: Seed) -> Tensor:
        """Direction (n,) of one variable from its rows (T, n), already multiplied by the weights.

        Only methods that need "rows" change this; inactive rows are zero.

        Args:
            rows: (T, n) float32
            seed: for random numbers, another one for each variable

        Returns:
            (n,) float32.
        """
        del seed
        return ops.sum(rows, axis=0)

    def on_epoch_metrics(
        self, kpi: np.ndarray, names: tuple[str, ...], logs: Mapping[str, float]
    ) -> np.ndarray:
        """The leaf "kpi" of the state after an epoch with these logs.

        Only for methods whose `evidence` has "epoch_metrics": their field `metrics` says which.

        Args:
            kpi: (T,) the leaf
            names: the T objectives
            logs: of the epoch, {name: number}

        Returns:
            (T,) the next value of the leaf.

        Raises:
            NotImplementedError: If the method reads no metrics.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no metrics.")

    def get_config(self) -> dict[str, Any]:
        return {
            field.name: _serialize(getattr(self, field.name)) for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Method":
        return cls(**{name: _deserialize(value) for name, value in config.items()})


def iter_methods(method: Method) -> Iterator[Method]:
    """The method, and the methods that it is made of."""
    yield method
    for inner in _held(method):
        yield from iter_methods(inner)


def _held(method: Method) -> Iterator[Method]:
    """The methods that are fields of a method."""
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        held = value.values() if isinstance(value, dict) else value
        for inner in held if isinstance(value, (dict, tuple)) else (value,):
            if isinstance(inner, Method):
                yield inner


def has_state(method: Method, names: tuple[str, ...]) -> bool:
    """Whether a method has arrays of its own, beside those of the methods it is made of."""
    theirs = sum(len(keras.tree.flatten(inner.init(names))) for inner in _held(method))
    return bool(method.memory) or len(keras.tree.flatten(method.init(names))) > theirs


@in_float32
def evaluate(method: Method, evidence: Evidence, state: State) -> tuple[Tensor, State]:
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
    if method.native_scale is not None and wanted not in ("paper", method.native_scale):
        weights = weights * evidence.count if wanted == "sum" else weights / evidence.count
    return weights, state


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
