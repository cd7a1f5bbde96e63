"""The recording of one replica, read as that of the whole batch.

The one rule of several devices: whatever is decided, is decided from sums over replicas.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.engines import GroupName, Measure, Recording, engine


class Replicated:
    """A recording whose scalars and gradients are those of all replicas: a `Recording`.

    Where Keras's optimizers add up over replicas a loss is that replica's part of the whole, and
    the parts are added; elsewhere it is a mean of its own samples, and means are averaged.

    Gradients by marks stay those of this replica's samples: the Gramian of all is the sum of the
    replicas' Gramians. So do vectors, which have an entry for each sample.

    local  the recording of this replica alone
    """

    measure: Measure
    marks: range
    stand_ins: range
    groups: Mapping[GroupName, range]

    def __init__(self, local: Recording) -> None:
        self.local = local
        self.groups, self.outputs, self.measure = local.groups, local.outputs, local.measure
        self.marks, self.stand_ins = local.marks, local.stand_ins
        self.scalars: Sequence[Tensor] = joined(local.scalars)

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        del sparse  # they travel
        return self.summed_by(engine().all_reduce, cotangents, variables, last)

    def summed_by(
        self,
        reduce: Callable[[Sequence[Tensor]], list[Tensor]],
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
    ) -> list[Tensor | None]:
        """The same; those by variables as `reduce` adds them up."""
        if (parts := engine().replica_count() // division()) > 1:
            cotangents = {index: seed / parts for index, seed in cotangents.items()}
        found = self.local.vjp(cotangents, variables, last)
        # Which loss reaches what may depend on the data of a replica; what is added up must not.
        there = engine().any_process(np.array([gradient is not None for gradient in found], bool))
        found = [
            self.local.zeros(variable) if gradient is None and some else gradient
            for variable, gradient, some in zip(variables, found, there, strict=True)
        ]
        places = [
            place
            for place, (variable, gradient) in enumerate(zip(variables, found, strict=True))
            if variable < self.marks.start and gradient is not None
        ]
        summed = reduce([found[place] for place in places])
        for place, gradient in zip(places, summed, strict=True):
            found[place] = gradient
        return found

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        return engine().any_process(self.local.reach(scalars))

    def zeros(self, variable: int) -> Tensor:
        return self.local.zeros(variable)


class InSlices:
    """The same, but of each gradient by a variable a replica keeps a slice: a `Recording`."""

    def __init__(self, whole: Replicated) -> None:
        self._whole = whole
        self.scalars, self.groups, self.outputs = whole.scalars, whole.groups, whole.outputs
        self.measure: Measure = whole.measure
        self.marks, self.stand_ins = whole.marks, whole.stand_ins

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        del sparse  # they travel
        return self._whole.summed_by(engine().reduce_scatter, cotangents, variables, last)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        return self._whole.reach(scalars)

    def zeros(self, variable: int) -> Tensor:
        return self._whole.zeros(variable)


def in_slices(recording: Recording) -> Recording:
    """The recording for rows, of which replicas keep slices where the engine scatters them."""
    spread = isinstance(recording, Replicated) and engine().SCATTERS
    return InSlices(recording) if spread else recording  # type: ignore[arg-type]


def over_replicas(recording: Recording, told: Callable[[], Mapping[str, Any]]) -> Recording:
    """The recording of the whole batch.

    told  what all processes that record have to say alike: see `check_together` of engines
    """
    if engine().replica_count() == 1:
        return recording
    losses = {str(name): len(places) for name, places in recording.groups.items()}
    engine().check_together({**told(), "losses": losses, "marked tensors": len(recording.marks)})
    return Replicated(recording)


def told_of(variables: Sequence[Any]) -> dict[str, Any]:
    """What processes have to say alike of their variables, before they exchange values."""
    return {"variables": [(tuple(v.shape), str(v.dtype)) for v in variables]}


def division() -> int:
    """By what the mean losses of a replica are divided, so that their sum is that of the batch."""
    return engine().replica_count() if engine().KERAS_ADDS else 1


def joined(scalars: Sequence[Tensor]) -> list[Tensor]:
    """What is one number, of all replicas, in one go; anything else as it is."""
    found = list(scalars)
    places = [place for place, scalar in enumerate(found) if len(scalar.shape) == 0]
    if engine().replica_count() == 1 or not places:
        return found
    wide = any("float64" in str(found[place].dtype) for place in places)
    kind = "float64" if wide else "float32"
    numbers = engine().stack([ops.cast(found[place], kind) for place in places])
    numbers = total(ops.stop_gradient(numbers)) / (engine().replica_count() // division())
    for place, number in zip(places, ops.unstack(numbers, len(places)), strict=True):
        found[place] = ops.cast(number, found[place].dtype)
    return found


def handed_out(directions: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Directions for an optimizer that a user calls: a part each where it adds up over replicas."""
    count = engine().replica_count()
    if count == 1 or not engine().KERAS_ADDS:
        return list(directions)
    share = ops.full((1,), 1.0 / count)
    return [g if g is None else engine().rows([g]).weighted_sum(share, None) for g in directions]


def alone(recording: Recording) -> Recording:
    """The recording of this replica alone."""
    return recording.local if isinstance(recording, Replicated) else recording


def total(tensor: Tensor) -> Tensor:
    """A tensor summed over replicas."""
    return tensor if engine().replica_count() == 1 else engine().all_reduce([tensor])[0]


def as_the_first(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors as the first replica has them: where numbers lie in memory may change how they round.

    What all replicas work out from the same numbers they would hold a bit apart.
    """
    if engine().replica_count() == 1:
        return list(tensors)
    first = ops.equal(engine().replica_index(), 0)
    found = list(tensors)
    # Counts do not round, and frameworks keep them apart from other numbers.
    places = [place for place, tensor in enumerate(found) if "int" not in str(tensor.dtype)]
    own = []
    for place in places:
        flag = "bool" in str(found[place].dtype)
        number = ops.cast(found[place], "float32") if flag else found[place]
        own.append(ops.where(first, number, ops.zeros_like(number)))
    for place, number in zip(places, engine().all_reduce(own), strict=True):
        found[place] = ops.cast(number, found[place].dtype)
    return found


def everywhere(flag: bool) -> bool:
    """Whether something that is known outside of a step holds on all replicas."""
    replicas = engine().replica_count()
    return flag if replicas == 1 else int(total(ops.full((), float(flag)))) == replicas


def place_in_batch(count: Tensor | int) -> tuple[Tensor | int, Tensor | int]:
    """How many samples of the whole batch come before those of this replica, and how many it has.

    count  () int: the samples of this replica
    """
    replicas = engine().replica_count()
    if replicas == 1:
        return 0, count
    places, index = ops.arange(replicas, dtype="int32"), engine().replica_index()
    own = ops.where(ops.equal(places, index), ops.cast(count, "float32"), 0.0)
    counts = ops.cast(total(own), "int32")
    return ops.sum(ops.where(places < index, counts, 0)), ops.sum(counts)
