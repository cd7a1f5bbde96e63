"""A kind of evidence: what a method may ask to know of a step, in a file of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from polytape.contract import Evidence, Fixed, Method, Reading, State, Tensor, ops
from polytape.differentiation.connectivity import Blocks
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.table import Table
from polytape.engines import Recording


class ComparedLoss(Protocol):
    """A loss between a target and an output on a batch of N samples, which may be asked again."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> Tensor:
        """() of the whole batch."""
        ...

    @property
    def outputs(self) -> Tensor:
        """(N, ...)"""
        ...

    @property
    def sample_weight(self) -> Tensor | None:
        """(N, ...), or fewer axes."""
        ...

    def weighted(self, sample_weight: Tensor) -> Tensor:
        """() the loss with these sample weights in place of its own."""
        ...

    def by_sample(self) -> Tensor:
        """(N, ...) masked and weighted, before any reduction; () if it is known only as a whole."""
        ...


class Recorded(Protocol):
    """A forward pass of a phase that has recorded what kinds of evidence asked for."""

    recording: Recording
    step: Tensor  # () int, of the phase
    scale: Tensor  # () what cotangents are multiplied by

    def parts(self, kind: str) -> Sequence[Sequence[int]]:
        """Of each thing that a kind had recorded the places of the T scalars or vectors."""
        ...

    def route(self, objective: int) -> Sequence[int]:
        """The places of the variables that an objective may train."""
        ...


@dataclass(frozen=True)
class Measurement:
    """What is there when evidence is measured.

    step       () int
    recorded   the forward pass, in a training step
    gradients  of all objectives, where they were taken
    gramian    (T, T) or (B, T, T) of them, zero rows and columns where inactive;  active  (T,) bool
    blocks     of the scope
    given      {key: value} what the caller measured himself
    """

    step: Tensor
    recorded: Recorded | None = None
    gradients: Jacobian | None = None
    gramian: Tensor | None = None
    active: Tensor | None = None
    blocks: Blocks | None = None
    given: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Kind:
    """What a method may ask to know of a step beyond losses and Gramian.

    To add one, write a subclass in a file of this folder, and name it in `evidence` of a method.
    Whatever a kind does not need it inherits: nothing recorded, nothing measured, no state.

    name   what methods call it;  key  of its value in `Evidence`, and as a keyword of `pt.weigh`
    cost   of a step: F forward, B backward passes, T objectives; "" if it is that of the method
    title  of the methods that read it, in the catalogue; "" if it makes no section of its own
    passes what their step takes, in words
    wants  what it is, in errors: "the gradients of two half batches"
    """

    name: ClassVar[str]
    key: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    title: ClassVar[str] = ""
    passes: ClassVar[str] = ""
    wants: ClassVar[str] = ""
    of_parameters: ClassVar[bool] = False  # whether it cannot be measured at marked tensors
    records: ClassVar[bool] = False  # whether it has more recorded of each objective than its loss
    makes_rows: ClassVar[bool] = False  # whether the losses' gradients come from what it recorded
    second_forward: ClassVar[bool] = False  # whether it asks for the losses after the update

    @classmethod
    def of(cls, methods: Sequence[Method]) -> "Kind | None":
        """The kind as a method, here with all that it is made of, asks for it; None if not."""
        asked = cls.name == methods[0].needs or any(cls.name in m.evidence for m in methods)
        return cls() if asked else None

    # ------------------------------------------------------------------ the forward pass

    def record(self, loss: ComparedLoss) -> list[Tensor]:
        """What is to be differentiated beside the loss of an objective; only if `records`."""
        del loss
        return []

    def weighted(self, recorded: Tensor, weight: Any) -> Tensor:
        """What it had recorded of an objective, for the loss times `weight`."""
        return ops.multiply(recorded, weight)

    def of_replica(self, recorded: Tensor, share: Tensor, by_sample: Tensor) -> Tensor:
        """What it had recorded of an objective on one replica, as it counts in the whole batch.

        share      () times which a loss of the replica counts, as one of its replicas
        by_sample  () times which the losses of its samples are what they are in the whole batch
        """
        del by_sample
        return self.weighted(recorded, share)

    def rows(self, tables: Sequence[Table]) -> Table:
        """The gradients of the losses from those of what it recorded; only if `makes_rows`."""
        raise NotImplementedError(f"{type(self).__name__} makes no rows of {len(tables)} tables.")

    # ------------------------------------------------------------------ its value

    def measure(self, at: Measurement) -> Any:
        """Its value in this step, a tensor or a nest; None if it is not measured but remembered."""
        del at
        return None

    def reading(self, value: Any) -> Reading:
        """The value as part of the evidence."""
        return Fixed(value)

    def check_given(self, method: Method, value: Any, shape: tuple[int, ...]) -> Any:
        """A value that the caller gives, checked; None if he may leave it out.

        shape  (..., T) of the losses
        """
        del method, shape
        return value

    # ------------------------------------------------------------------ what it remembers

    def initial(self, names: Sequence[str]) -> State:
        """Its state before the first step, of NumPy arrays; None if it keeps none."""
        del names
        return None

    def remembered(self, state: State) -> Any:
        """Its value, out of its state."""
        return state

    def advanced(self, state: State, evidence: Evidence) -> State:
        """Its state after the weights of a step were made."""
        del evidence
        return state

    def after_update(self, before: Tensor, after: Tensor, active: Tensor) -> State:
        """Its state after the update, (T,) each; only if `second_forward`."""
        raise NotImplementedError(f"{type(self).__name__} does not look at losses after an update.")

    # ------------------------------------------------------------------ where it cannot be had

    def refusal_in_loop(self, asked_by: str) -> str:
        """Why `asked_by` cannot measure it, and what can; "" if it can."""
        del asked_by
        return ""
