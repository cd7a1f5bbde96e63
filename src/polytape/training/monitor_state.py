"""What a monitor keeps on the device between two looks at it: the last few records of a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Numbers
from polytape.engines import engine


@dataclass(frozen=True)
class Layout:
    """How the numbers of one phase lie in a record, one after the other.

    Losses (T,), what they were multiplied by before any method (T,), whether they are in the update
    (T,), the weights of shared variables (B, T) and of others (T,), and inner products for each
    group of variables: of those that several objectives reach (T + 1, T + 1), and of the others;
    the last row and column being what is added to the combination as it is.

    objectives  T names
    groups      of variables: (network, block of a scope) each
    group_of    the group of each variable, by place
    blocks      B, the number of blocks that have weights of their own
    joint       whether the weights of shared variables act on the others, too
    whole       whether the last row is all of the update, and not an addition to it
    weighs      whether what the method does is told by weights
    sums        whether the update is the weighted sum of the gradients
    """

    objectives: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    group_of: tuple[int, ...]
    blocks: int = 1
    joint: bool = False
    whole: bool = False
    weighs: bool = True
    sums: bool = True

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each part has, in order."""
        count = len(self.objectives)
        flat = dict.fromkeys(("losses", "given", "taken"), count)
        return {**flat, "shared": self.blocks * count, "private": count, "products": self.cells}

    @property
    def cells(self) -> int:
        """How many inner products there are."""
        return len(self.groups) * 2 * (len(self.objectives) + 1) ** 2

    @cached_property
    def width(self) -> int:
        """How many numbers a record has."""
        return sum(self.sizes.values())

    def parts(self, records: Numbers) -> dict[str, Numbers]:
        """The parts of R records (R, width), each in its shape."""
        count = len(self.objectives)
        found, start = {}, 0
        for name, size in self.sizes.items():
            found[name] = records[:, start : start + size]
            start += size
        found["shared"] = found["shared"].reshape(-1, self.blocks, count)
        shape = len(records), len(self.groups), 2, count + 1, count + 1
        found["products"] = found["products"].reshape(shape)
        return found


class MonitorState(keras.metrics.Metric):
    """The last records of each phase, in variables that a step fills without leaving the device.

    Metrics, so that they go through a train function and are not saved with the model.

    every     a step out of so many leaves a record;  capacity  so many are kept
    layouts   of the phases, once they are known
    """

    def __init__(self, every: int, capacity: int, layouts: Sequence[Layout]) -> None:
        super().__init__(name="monitor", dtype="float32")
        self.every, self.capacity, self.layouts = every, capacity, tuple(layouts)
        self.step = self._whole((), "step")
        self.count = self._whole((), "count")
        self.steps = self._whole((capacity,), "steps")
        self.records = [
            self._made((capacity, layout.width), f"phase_{number}", "float32")
            for number, layout in enumerate(self.layouts)
        ]

    def _whole(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        return self._made(shape, name, "int32")

    def _made(self, shape: tuple[int, ...], name: str, dtype: str) -> keras.Variable:
        """One of steps, not of samples: that of any replica, and no sum of theirs."""
        kind = "only_first_replica"
        return self.add_variable(shape, "zeros", dtype=dtype, aggregation=kind, name=name)

    # ------------------------------------------------------------------ in a step

    def due(self) -> Tensor | bool:
        """() bool: whether this step leaves a record; outside of a compiled step it is known."""
        step = self.step.value
        if engine().has_value(step):
            return int(self.step.numpy()) % self.every == 0
        return ops.equal(ops.mod(step, self.every), 0)

    def write(self, number: int, due: Tensor | bool, record: Callable[[], Tensor]) -> None:
        """Keep what `record()` gives, (width,), of a phase, where that is due."""
        variable = self.records[number]
        before = variable.value

        def written() -> Tensor:
            row = ops.expand_dims(ops.cast(record(), "float32"), 0)
            return ops.slice_update(before, [ops.mod(self.count.value, self.capacity), 0], row)

        if due is not False:
            variable.assign(chosen(due, written, lambda: before))

    def tick(self) -> None:
        """A step has ended."""
        due, before = self.due(), self.steps.value

        def noted() -> Tensor:
            here = ops.equal(ops.arange(self.capacity), ops.mod(self.count.value, self.capacity))
            return ops.where(here, self.step.value, before)

        if due is not False:
            self.steps.assign(chosen(due, noted, lambda: before))
            self.count.assign_add(ops.cast(due, "int32"))
        self.step.assign_add(1)

    # ------------------------------------------------------------------ between steps

    def start(self, step: int) -> None:
        """Go on with the step of this number."""
        self.step.assign(step)

    def made(self) -> int:
        """The number of records so far; more than `capacity` are not kept."""
        return int(self.count.numpy())

    def reset_state(self) -> None:
        """Nothing: epochs do not end it."""

    def update_state(self, *args: Anything, **kwargs: Anything) -> None:
        """Nothing: a step writes records."""

    def result(self) -> dict[str, Tensor]:
        return {}


def chosen(due: Tensor | bool, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    """One of two tensors of the same shape; the other is not worked out."""
    if isinstance(due, bool):
        return one() if due else other()
    return engine().either(due, one, other)
