"""What an engine provides: differentiation of several scalars after one forward pass.

One engine per framework, chosen by Keras's backend; nothing else in polytape imports a framework.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from polytape.engines.operations import Trace
from polytape.engines.places import Line

Tensor = Any
Variable = Any
GroupName = str | tuple[Any, ...]
# What is differentiated, in a list or in lists by name; and whatever else there is.
Scalars = Sequence[Tensor] | Mapping[GroupName, Sequence[Tensor]]
Forward = Callable[[], tuple[Scalars, Any]]
Measure = Literal["parameters", "features", "outputs"]  # what gradients are taken by
Way = Literal["unrolled", "looped"]  # how the backward passes of several objectives are compiled
Marked = Measure | Literal["layers"]  # what is marked; "layers": what layers make of variables


class Recording(Protocol):
    """One forward pass that can be differentiated several times."""

    scalars: Sequence[Tensor]  # what `forward` returned first: scalar losses
    groups: Mapping[GroupName, range]  # their places by name, if they were returned by name
    outputs: Any  # what it returned second
    measure: Measure
    marks: range  # indices, behind the variables, of the tensors marked as that measure
    stand_ins: range  # indices, behind those, of the losses' stand-ins, in the order they were made

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        """Gradient of sum_s cotangents[s] * scalars[s] for variables, marks, stand-ins, by index.

        Only the part of the network between those scalars and those variables is differentiated.
        None where no path exists.

        last    whether what the forward pass kept may go meanwhile: nothing is pulled afterwards
        sparse  whether gradients by tables may be `Gathered`, where the framework has none such
        """
        ...

    def zeros(self, variable: int) -> Tensor:
        """A gradient by a variable, mark or stand-in, by index, that is zero."""
        ...

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        """(len(scalars), V) bool: which scalar has a differentiable path to which variable."""
        ...


class Asked(NamedTuple):
    """What may be asked of a tape beside what the framework's own gives.

    several      gradients of several losses, of a tape that is not persistent
    causes       why there is no gradient
    explanation  all that `explain` tells, before its use as well as afterwards
    """

    several: bool = False
    causes: bool = False
    explanation: bool = False


class Tape(Protocol):
    """A record of what the framework does between `open` and `close`, by the framework's rules.

    What goes against these raises the framework's own errors.
    """

    recorded: bool  # whether it was opened, and not used up since
    accessed: bool  # whether it follows variables without being told to

    def open(self, asked: Asked) -> None:
        """Begin to record, or go on."""
        ...

    def close(self) -> None: ...

    def reset(self) -> None:
        """Forget what was recorded, and go on recording."""
        ...

    def stop_recording(self) -> AbstractContextManager[None]: ...

    def watch(self, tensor: Any) -> None:
        """Follow tensors from here on, as variables are followed without being asked."""
        ...

    def single(self) -> AbstractContextManager[Any]:
        """The framework's tape, for one call of one method; used up by it if not persistent."""
        ...

    def several(self) -> bool:
        """End the record of a tape that is not persistent; whether `recording` can be had."""
        ...

    def recording(self, scalars: Scalars, sources: Sequence[Any]) -> Recording:
        """Scalars of that time, to be differentiated by variables and tensors of that time."""
        ...

    def spend(self) -> None:
        """Free what was recorded, unless the tape is persistent."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Without a record of what is done meanwhile, be it open or closed."""
        ...

    def remembers(self) -> bool:
        """Whether `recording` can be had, be the tape used up or not."""
        ...

    def trace(self, targets: Sequence[Tensor], sources: Sequence[Any]) -> Trace | None:
        """The operations that it has met; None if nobody noted them."""
        ...

    def read(self) -> Sequence[Variable]:
        """The variables that it has followed, in the type of the framework."""
        ...

    def has_read(self, source: Any) -> bool:
        """Whether a variable, of Keras or of the framework, is among them."""
        ...

    def was_told(self, source: Any) -> bool:
        """Whether it was told to watch a tensor."""
        ...

    def paths(self, variables: Sequence[Variable]) -> list[str]:
        """The paths that Keras gives to variables, or the names that they have."""
        ...

    def finished(self, scalar: Tensor) -> bool:
        """Whether a tensor was there when the tape was closed."""
        ...

    def plainly(self, function: Callable[[], Any]) -> Any:
        """What a function returns, as it is: no compiler of the framework reads its source."""
        ...

    def line(self) -> Line | None:
        """The line of the user's code that runs, if it is known."""
        ...

    def is_variable(self, source: Any) -> bool:
        """Of Keras or of the framework, and no tensor."""
        ...

    def leaves(self, nest: Any) -> list[Any]:
        """What is in a nest, None included."""
        ...

    def differentiable(self, tensor: Tensor) -> bool:
        """Whether the type of a tensor or variable is one that gradients are taken of."""
        ...


class Rows(Protocol):
    """k gradients of one variable, as rows (k, n): float32, or float64 if they are.

    sliced  whether each replica has a part of the n coordinates: inner products and squares are of
            that part, and those of the rows are their sum over replicas
    """

    sliced: bool

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """(k, k) float32 inner products; or those of m combinations of rows, (m, m).

        mixed  (m, k): the combinations, which are formed first and multiplied afterwards
        kept   (k,) bool: rows that are read at all; None reads them all
        """
        ...

    def squares(self) -> list[Tensor]:
        """Squared norm of each of the k rows, float32: finite only if the row is."""
        ...

    def matrix(self) -> Tensor:
        """(k, n) float32, for methods that must see coordinates."""
        ...

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        """sum_i weights[i] * row_i as a gradient of the variable.

        kept  (k,) bool: rows that are read at all; None reads them all
        """
        ...

    def unflatten(self, flat: Tensor) -> Tensor:
        """A gradient of the variable from a direction (n,)."""
        ...


class InLoop(NamedTuple):
    """Gradients that a loop over the objectives has found.

    table  [t][v], None where no path exists
    rows   {variable that all of them reach: its rows}, the same numbers
    """

    table: Sequence[Sequence[Tensor | None]]
    rows: Mapping[int, Rows]


class Engine(Protocol):
    """The functions of `engines/tensorflow`, `engines/jax` and `engines/torch`."""

    CHOICES_PAY: bool  # whether what is not chosen costs less, differentiated, than doing both
    FUSES: bool  # whether choosing between two values within an elementwise pass costs nothing
    # Whether Keras's optimizers add up over replicas, and its mean losses and added losses are
    # divided by the number of replicas accordingly.
    KERAS_ADDS: bool
    SCATTERS: bool  # whether replicas keep slices of rows: if there are replicas at all

    def record(
        self,
        forward: Forward,
        variables: Callable[[], Sequence[Variable]],
        measure: Marked = "parameters",
        stand_ins: bool = False,
    ) -> Recording:
        """Run `forward` once, so that its scalars can be differentiated by the `variables`.

        Tensors marked as `measure` on the way can be differentiated by, too; and so can the
        stand-ins of losses, if they are wanted.

        These are asked for after the forward pass where it may create them (not on JAX).
        Side effects on other variables (BatchNorm statistics, seeds, metrics) happen once.
        """
        ...

    def pulled_back(
        self,
        recording: Recording,
        cotangent: Tensor | float,
        scalars: Sequence[int],
        variables: Sequence[Sequence[int]],
    ) -> Sequence[Sequence[Tensor | None]]:
        """The gradients of some scalars, all times one cotangent, each by variables of its own.

        One backward pass each, or less where the engine can. None where no path exists; those by
        tables may be `Gathered`.
        """
        ...

    def trace(
        self, forward: Forward, variables: Callable[[], Sequence[Variable]]
    ) -> tuple[Recording, Trace]:
        """As `record`, outside of any compiled function, with the operations of the forward pass.

        It runs in a stateless scope of the caller's, which keeps it from changing variables.

        Raises `LeftFrameworkError` where a function needs values that tracing it does not have.
        """
        ...

    def parameters(self, module: Any) -> dict[str, Variable] | None:
        """What a module of the framework itself trains, by name; None if it is no such module.

        Frozen parameters are among them where the framework lists them.
        """
        ...

    def trains(self, source: Any) -> bool | None:
        """Whether gradients can be taken by a variable or tensor of the framework itself.

        None if it is neither. Keras's own variables are not asked for.
        """
        ...

    def tape(self, persistent: bool, watch_accessed_variables: bool) -> Tape | None:
        """A closed, empty tape, if the framework records what is done as it is done.

        persistent                whether it may be used more than once
        watch_accessed_variables  whether variables are followed without being asked for
        """
        ...

    def derivative(
        self, function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The gradient of a scalar function by its arguments, itself differentiable.

        None where no path exists. Side effects of the function on variables happen once.
        """
        ...

    def jacobian(
        self, function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The gradient of each of the n entries of a function by its arguments, (n, *shape) each.

        None, or zeros, where no path exists. In a loop or at once, as the framework can.
        """
        ...

    def context(self, used: Sequence[Tensor | Variable] = ()) -> Any:
        """What tells the function that is traced, mapped or recomputed here from another.

        Tensors made in one are of no use outside of it, and backward passes do not stop at them.

        used  tensors and variables; whether these are being differentiated within the forward
              pass is told, too, where the framework knows at this time
        """
        ...

    def constant(self, value: Tensor) -> Tensor:
        """The same without a gradient by what it was made of; `used_beside` finds it again."""
        ...

    def used_beside(self, tensors: Sequence[Tensor], constants: Sequence[Tensor]) -> list[int]:
        """Which constants some tensors are made of, other than through tensors that were marked.

        Empty where `context` has told beforehand.
        """
        ...

    def pullbacks(
        self,
        function: Callable[[list[Tensor]], Sequence[Tensor]],
        at: Sequence[Tensor],
        cotangents: Sequence[Sequence[Tensor]],
    ) -> list[list[Tensor | None]]:
        """For each of several cotangents of what a function returns the gradients by its arguments.

        The function runs once. None, or zeros, where no path exists. Cotangents do not mix: one
        that is not finite leaves the gradients of others as they are.
        """
        ...

    def way_of(self, recording: Recording, scalars: Sequence[int]) -> Way:
        """How the gradients of several scalars are found, each by all variables.

        "unrolled": by a call of `vjp` for each, which a compiler sees as many times. "looped": by
        `in_loop`, whose programme does not grow with what the scalars share.
        """
        ...

    def in_loop(
        self, recording: Recording, scalars: Sequence[int], seed: Tensor, variables: Sequence[int]
    ) -> InLoop:
        """The gradients of several scalars, `seed` times too large, where `way_of` is "looped"."""
        ...

    def rows(self, gradients: Sequence[Tensor]) -> Rows:
        """The gradients of several objectives by one variable. Sparse ones stay sparse."""
        ...

    def side_by_side(self, columns: Sequence[Sequence[Tensor]]) -> list[list[int]]:
        """Whose rows are to be multiplied and added up together: the places of variables, grouped.

        columns  of each variable its k gradients
        """
        ...

    def together(self, columns: Sequence[Sequence[Tensor]]) -> Rows:
        """The gradients by the variables of one such group, joined, as if these were one.

        columns  of each variable its k gradients
        """
        ...

    def split(self, direction: Tensor, columns: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """A direction (n,) of joined variables in their shapes."""
        ...

    def squares(self, rows: Sequence[Rows]) -> Tensor:
        """(n,) float32: the squared norms of all rows of some, one after the other."""
        ...

    def device_memory(self) -> int | None:
        """The bytes of memory that the first device has; None if that is not known."""
        ...

    def matmul(self, first: Tensor, second: Tensor) -> Tensor:
        """(..., m, n) of (..., m, k) and (..., k, n) float32, as exactly as gradients are added."""
        ...

    def has_value(self, tensor: Tensor) -> bool:
        """Whether a tensor has numbers already, which it has not in a function being traced."""
        ...

    def dense(self, gradient: Tensor) -> Tensor:
        """A gradient, sparse or not, as a float32 tensor in the shape of its variable."""
        ...

    def as_update(self, gradient: Tensor) -> Tensor:
        """A gradient as Keras's optimizers take it on this backend: dense where they need that."""
        ...

    def add_where(self, total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
        """`total`, plus `gradient` where `condition` () bool; a sparse total keeps its entries."""
        ...

    def zeros_like(self, gradient: Tensor) -> Tensor:
        """Zero, in the shape of a gradient and, if that is sparse, with its entries."""
        ...

    def finite(self, gradients: Sequence[Tensor]) -> Tensor:
        """() bool: whether no gradient has an entry that is not finite."""
        ...

    def in_range(
        self, gradients: Sequence[Tensor], values: Sequence[Tensor] = (), exact: bool = False
    ) -> Tensor:
        """() bool: whether the squared norm of all gradients is a finite float32, and all values.

        Optimizers square gradients: beyond 1.8e19 that is infinite in their slots, for good.

        exact  whether the last bits of the step must be Keras's own, be it that an engine can only
               tell then whether the gradients themselves are finite
        """
        ...

    def stack(self, scalars: Sequence[Tensor]) -> Tensor:
        """(n,) of n tensors () of one dtype.

        `keras.ops.stack` agrees upon a dtype first, which eager costs as much as a small layer.
        """
        ...

    def compiled(self, function: Callable[..., Any], arrays: bool = False) -> Callable[..., Any]:
        """A function of nests of tensors made fast to call, compiled if that helps.

        arrays  whether it is written in `contract.ops`, and so can be evaluated on NumPy arrays
        """
        ...

    def evaluated(self, function: Callable[..., Any], *given: Any) -> Any:
        """What a function of nests of small tensors returns, which is written in `contract.ops`.

        Where an operation takes longer to be called than to be done, and numbers are at hand, it is
        evaluated on NumPy arrays.
        """
        ...

    def survey(self, function: Callable[[], Any]) -> None:
        """Run a function for what it meets on its way, without values where that is possible.

        It runs in a stateless scope of the caller's, which keeps it from changing variables.
        """
        ...

    def compiled_step(
        self, step: Callable[..., Any], variables: Sequence[Variable]
    ) -> Callable[..., Any]:
        """A training step made fast to call from outside; traced once for each shape.

        step       takes nests of tensors and returns one; may change `variables` and no others
        """
        ...

    def choose(
        self, first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]
    ) -> Tensor:
        """One of two tensors of the same shape; where `first` is known, the other is never traced.

        `keras.ops.cond` outside of a compiled function makes JAX compile both anew at every call.
        """
        ...

    def either(self, first: Tensor, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
        """One of two nests of tensors of the same structure, by `first` () bool.

        What makes them may add up over replicas, and on all of these `first` is the same. As a rule
        only the chosen nest is made. Where a condition cannot hold such a sum, both are.
        """
        ...

    def without_side_effects(
        self, function: Callable[[], Any], changing: Sequence[Variable]
    ) -> Any:
        """What `function` returns, run without gradients and without a trace.

        changing  the variables that it may change; they have their values back afterwards
        """
        ...

    def assign(
        self, variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor
    ) -> None:
        """New values for variables where `accept` () bool is true, and no change elsewhere."""
        ...

    def restore_if_nonfinite(self, variable: Variable, value: Tensor) -> None:
        """An earlier value for a variable that is not finite, and no change otherwise."""
        ...

    def apply(
        self,
        optimizer: Any,
        gradients: Sequence[Tensor | None],
        variables: Sequence[Variable],
        accept: Tensor,
        exact: bool = False,
    ) -> None:
        """One optimizer step where `accept` () bool is true, and no change at all elsewhere.

        exact  whether the last bits must be those of Keras's own step, be it slower
        """
        ...

    def replica_count(self) -> int:
        """How many replicas the step that is run or traced here is one of; 1 if it is alone.

        Replicas run the same step, each on its own part of the batch, and share the variables.
        """
        ...

    def replica_index(self) -> Tensor:
        """() int32: the number of this replica, from 0."""
        ...

    def all_reduce(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor summed over the replicas, with the same bits on all; sparse ones stay sparse.

        All replicas come to it, with tensors of the same number, shapes and types.
        """
        ...

    def home(self, model: Any) -> AbstractContextManager[Any]:
        """Where variables are made that belong to a model."""
        ...

    def for_all_replicas(self, make: Callable[[], Any]) -> None:
        """Make variables, once for all replicas, where these are about to do it each."""
        ...

    def on_replicas(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """The function run by all replicas, each with its part of what is given; None if it is one
        of them, or alone, that asks."""
        ...

    def spread_batches(self, model: Any, function: Any) -> Any:
        """A train or test function of Keras's that gives each replica its part of every batch.

        As it is where the model has no replicas of its own.
        """
        ...

    def of_first_replica(self, nest: Any) -> Any:
        """Of what all replicas have returned the same that of one of them."""
        ...

    def processes(self) -> int:
        """How many processes train together, each with copies of its own of all variables.

        1 where the framework keeps the variables of all processes as one.
        """
        ...

    def process_number(self) -> int:
        """The number of this process, from 0."""
        ...

    def check_together(self, told: Mapping[str, Any]) -> None:
        """Raise `RuntimeError` in all of these processes unless all tell the same.

        All come to it where they would wait for each other next, whatever they are about to do.

        told  {what it is about: what this process has to say of it}; where they are comes first
        """
        ...

    def gather(self, told: Any) -> list[Any]:
        """What each of these processes tells, any Python object, by their numbers."""
        ...

    def differing(self, variables: Sequence[Variable]) -> list[int]:
        """The places of variables that have not the same bits in all of these processes."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """While it is open this process records and differentiates for itself, on its own data."""
        ...

    def any_process(self, flags: np.ndarray) -> np.ndarray:
        """Where any of these processes has true; all come to it, with flags of one shape."""
        ...

    def broadcast(self, variables: Sequence[Variable]) -> None:
        """Give all of these processes the values that process 0 has."""
        ...

    def unwrapped(self, module: Any) -> Any:
        """The module in a wrapper that adds gradients up, whose work is done here; others as is."""
        ...

    def under_way(self) -> AbstractContextManager[None]:
        """While it is open what `all_reduce` returns may not have arrived, and is not to be read.

        It travels while the next gradients are worked out, and is there once it is closed.
        """
        ...

    def refusal(self, model: Any, fits: bool = False) -> str | None:
        """Why a step cannot be right on the devices that it would run on; None if it can.

        model  a model, network or module that may be spread itself, variables, or None
        fits   whether Keras's own loop is to run it
        """
        ...

    def placed(self, rank: int, beside: Variable | None) -> dict[str, Any]:
        """Further arguments of `keras.Variable` that say on which devices its parts are to be.

        rank    of the new one
        beside  a variable whose axes are the last ones of the new one, which is to lie as that
                does; None: the whole on each device
        """
        ...

    def flat(self, array: Tensor, beside: Variable | None) -> Tensor:
        """(k, n) of k arrays (k, ...) of the shape of a variable, on the same devices as that.

        The order of the n coordinates is that of the devices, always the same.
        """
        ...

    def unflat(self, flat: Tensor, shape: Sequence[int], beside: Variable | None) -> Tensor:
        """(k, *shape) again of what `flat` gave."""
        ...

    def scatter_refusal(self) -> str | None:
        """Why rows cannot be scattered over the devices there are; None if they can."""
        ...

    def reduce_scatter(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients summed over replicas, of each of which this one keeps a slice, for `rows`.

        Only in a step that scatters its rows.
        """
        ...

    def gathered(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of which replicas have slices, whole on each; others as they are."""
        ...

    def prepare(self, model: Any) -> None:
        """Settle what the framework must know of a model before its train function is made."""
        ...

    def snapshot(self, model: Any) -> Any:
        """What `restore_snapshot` needs, taken before the first step, when all variables exist."""
        ...

    def restore_snapshot(self, kept: Any) -> None:
        """Give back values that a training loop took away and did not return when it failed."""
        ...

    def readable(self, variable: Variable) -> bool:
        """Whether a variable has its value, which a step that failed half-way may have taken."""
        ...

    def train_step(
        self,
        model: Any,
        step: Callable[[Any], Any],
        *args: Any,
        same: Sequence[Variable] | None = None,
    ) -> Any:
        """Keras's `train_step` in the signature of this backend, around a stateful `step(data)`.

        same  where it is to scatter its rows: variables that come out alike on all replicas by
              themselves; None: it is not
        """
        ...
