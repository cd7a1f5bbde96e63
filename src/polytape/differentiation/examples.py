"""The losses of a batch's examples, in a line of T."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Tensor, check_objective_names, received
from polytape.contract.types import Flags
from polytape.engines import check_native

Per = Literal["example", "step"]


class Pass(NamedTuple):
    """A backward pass that brings the cotangents of a batch's n examples.

    scalar  the place of their losses, (n,), or (n, L) of L time steps;  step  which of these
    routed  the variables, by place, that they may train; None: all
    """

    scalar: int
    step: int | None
    routed: Collection[int] | None


@dataclass(frozen=True)
class InLine:
    """How the losses of K objectives lie in a line: objective by objective, step by step.

    names  of the objectives;  steps  of each the number of its time steps, None without
    size   N, the examples of a whole batch: where one has fewer, n, the last places are empty
    """

    names: tuple[str, ...]
    steps: tuple[int | None, ...]
    size: int

    @classmethod
    def of(
        cls, names: Sequence[str], per: Sequence[Per], losses: Sequence[Tensor], size: int | None
    ) -> "InLine":
        """For losses (n,) per "example", (n, L) per "step".

        size  of a whole batch, where the losses have no length before the step runs

        ValueError if one of these numbers is not known.
        """
        found = losses[0].shape[0] or size
        if found is None:
            raise ValueError(
                f"Objective {names[0]!r} has per={per[0]!r}, and the batches of this data have no "
                "size that is known beforehand. Give them one: dataset.batch(32, "
                "drop_remainder=True); or arrays and a batch_size to fit()."
            )
        steps = [None if len(each.shape) == 1 else each.shape[1] for each in losses]
        for name, kind, each in zip(names, per, steps, strict=True):
            if kind == "step" and each is None:
                raise ValueError(
                    f'Objective {name!r} has per="step", and the number of time steps is not known '
                    "beforehand. Give the model an Input with a fixed length, keras.Input((10, 3))."
                )
        return cls(tuple(names), tuple(steps), int(found))

    @property
    def rows(self) -> list[tuple[int, int | None]]:
        """Of each pass the objective and the time step."""
        return [
            (k, step)
            for k, steps in enumerate(self.steps)
            for step in ([None] if steps is None else range(steps))
        ]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Of the T losses: "digit[3]", or "digit[3,1]" of time step 1."""
        return tuple(
            f"{self.names[k]}[{i}]" if step is None else f"{self.names[k]}[{i},{step}]"
            for k, step in self.rows
            for i in range(self.size)
        )

    @cached_property
    def owners(self) -> np.ndarray:
        """(T, K) float32: one where a loss belongs to an objective."""
        owners = [k for k, _ in self.rows]
        return np.repeat(np.eye(len(self.names), dtype="float32")[owners], self.size, axis=0)

    def passes(self, places: Sequence[int], routed: Flags | None = None) -> list[Pass]:
        """The backward passes.

        places  of the losses of each objective;  routed  (K, V) bool: what each may train
        """
        return [
            Pass(places[k], step, None if routed is None else np.flatnonzero(routed[k]).tolist())
            for k, step in self.rows
        ]

    def of_objectives(self, reach: Flags) -> Flags:
        """(K, V) bool of (S, V): what some pass of an objective reaches."""
        found = np.zeros((len(self.names), reach.shape[1]), bool)
        for (k, _), row in zip(self.rows, reach, strict=True):
            found[k] |= row
        return found

    def line(self, values: Sequence[Tensor]) -> Tensor:
        """(T,) float32 of (n,) or (n, L) for each objective; zero in empty places."""
        found = []
        for each in values:
            rows = ops.transpose(each) if len(each.shape) == 2 else ops.expand_dims(each, 0)
            rows = ops.cast(rows, "float32")
            if each.shape[0] != self.size:
                rows = ops.pad(rows, [(0, 0), (0, self.size - ops.shape(each)[0])])
            found.append(ops.reshape(rows, (-1,)))
        return ops.concatenate(found)

    def back(self, line: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """(n,) or (n, L) for each objective, of (T,)."""
        found, start = [], 0
        for steps, each in zip(self.steps, like, strict=True):
            count = steps or 1
            rows = ops.reshape(line[start : start + count * self.size], (count, self.size))
            rows = rows[:, : ops.shape(each)[0]]
            found.append(rows[0] if steps is None else ops.transpose(rows))
            start += count * self.size
        return found


# ---------------------------------------------------------------------- what a loop hands over


def checked_per(per: Any, measure: str) -> Per:
    """The argument itself; ValueError if it is none, or beside what it excludes."""
    if per not in ("example", "step"):
        raise ValueError(
            '`per` is "example", for losses of shape (N,), or "step", for losses of shape (N, L); '
            f"`active` says which of them count. Received: per={per!r}."
        )
    if measure != "parameters":
        raise ValueError(
            "The gradients of single examples are compared by the parameters. Received: "
            f"measure={measure!r} beside per={per!r}. Leave one of them out."
        )
    found: Per = per
    return found


def losses_of_examples(given: Any, per: Per) -> tuple[dict[str, Tensor], Any]:
    """What an objective function returned: {name: (N,) or (N, L)}, or (that, outputs)."""
    both = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Mapping)
    losses, outputs = given if both else (given, None)
    shape = "(N,)" if per == "example" else "(N, L)"
    if not isinstance(losses, Mapping) or not losses:
        raise TypeError(
            f'With per={per!r} the objective function returns {{"name": losses}}, with losses of '
            f"shape {shape}. {received(losses)}"
        )
    check_objective_names(losses)
    sizes = set()
    for name, loss in losses.items():
        check_native(f"The loss of objective {name!r} is", loss)
        if not ops.is_tensor(loss) or len(loss.shape) != 1 + (per == "step"):
            found = tuple(loss.shape) if ops.is_tensor(loss) else type(loss).__name__
            raise ValueError(
                f"With per={per!r} objective {name!r} has a tensor of losses of shape {shape}, not "
                f'reduced: of a Keras loss take reduction="none". Received: {found}.'
            )
        sizes.add(loss.shape[0])
    if len(sizes) > 1:
        raise ValueError(
            f"All objectives are of the same N examples. Received: {sorted(map(str, sizes))} of "
            "them."
        )
    return dict(losses), outputs


def given_activity(active: Any, names: Sequence[str], losses: Sequence[Tensor]) -> list[Tensor]:
    """What a caller says counts, float32 in the shapes of the losses."""
    known = active if isinstance(active, Mapping) else dict.fromkeys(names, active)
    if {*known} != {*names}:
        raise ValueError(
            f"`active` is one tensor for all objectives, or one by name: {', '.join(names)}. "
            f"Received: {', '.join(map(str, known))}."
        )
    found = []
    for name, each in zip(names, losses, strict=True):
        flags = ops.cast(ops.convert_to_tensor(known[name]), "float32")
        if tuple(flags.shape) != tuple(each.shape):
            raise ValueError(
                f"`active` of objective {name!r} has shape {tuple(flags.shape)}, and its losses "
                f"have {tuple(each.shape)}. Give one boolean for each loss."
            )
        found.append(flags)
    return found
