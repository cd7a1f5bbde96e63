"""What a user's `compute_loss` made of the losses: how much of each is in it, and what else."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Flags, Nest
from polytape.engines import GroupName, Measure, Recording, flattened

_Terms = list[tuple[int, Tensor | None]]  # recorded scalars and what each is multiplied by; None: 1


class Called(NamedTuple):
    """The name of a group of losses: of which objective, by place, each is.

    An objective has several if the losses were evaluated more than once.
    """

    objectives: tuple[int, ...]


class ReturnedTotal:
    """A recording whose objectives are the losses as a total holds them: a `Recording`.

    The total was computed from stand-ins of the losses, numbers that no variable has touched. So
    its derivative by a stand-in is the share that this loss has in it (1 in `super() + term`, 0.5
    in `0.5 * super()`), and its derivative by the variables that of the extra term, without
    anything that cancels.

    groups  "losses": the T losses times their shares;  "extra": what else the total holds, if a
            variable reaches it;  "total": as it was returned;  and likewise the T losses of each
            further group that was recorded
    """

    outputs: Nest
    groups: Mapping[GroupName, range]
    measure: Measure
    marks: range
    stand_ins: range

    def __init__(self, recording: Recording, names: Sequence[str], owner: str) -> None:
        """recording  with a group `Called` of losses, in the order of its stand-ins, and "total";
                   each further group has as many scalars as there are losses

        names      of the T objectives
        owner      whose total it is, for errors
        """
        self._recording = recording
        self.outputs, self.measure = recording.outputs, recording.measure
        self.marks, self.stand_ins = recording.marks, recording.stand_ins
        (total,) = recording.groups["total"]
        called = next(name for name in recording.groups if isinstance(name, Called))
        of = called.objectives
        shares = recording.vjp({total: ops.ones(())}, recording.stand_ins)
        for t, name in enumerate(names):
            if all(share is None for share, own in zip(shares, of, strict=True) if own == t):
                raise ValueError(
                    f"{owner} evaluates the losses with super().compute_loss(...), and what it "
                    f"returns does not depend on that of {name!r}: it would not be trained. Return "
                    "what super().compute_loss(...) gives and what you add to it, or use "
                    'combine="sum".'
                )

        def objective(t: int, group: range) -> _Terms:
            return [
                (group[s], share)
                for s, share in enumerate(shares)
                if of[s] == t and share is not None
            ]

        terms: dict[GroupName, list[_Terms]] = {
            name: [objective(t, group) for t in range(len(names))]
            for name, group in recording.groups.items()
            if name not in ("extra", "total")
        }
        losses = terms.pop(called)
        extra: list[_Terms] = [[(total, None)]] if recording.reach([total]).any() else []
        whole = [*(term for each in losses for term in each), (total, None)]
        grouped = {"losses": losses, "extra": extra, "total": [whole], **terms}
        self._total, self._losses, self._parts = total, losses, terms
        self._has_extra = bool(extra)
        self._terms = [each for group in grouped.values() for each in group]
        flat, self.groups = flattened(self._of(recording.scalars))
        self.scalars: Sequence[Tensor] = flat

    def losses_of(self, groups: Mapping[GroupName, Sequence[Tensor]]) -> list[Tensor]:
        """The T losses as the total holds them, for those of another forward pass."""
        scalars, _ = flattened(groups)
        return self._of(scalars)["losses"]

    def _of(self, scalars: Sequence[Tensor]) -> dict[GroupName, list[Tensor]]:
        """What is recorded here, of what was recorded there."""

        def value(terms: _Terms) -> Tensor:
            return functools.reduce(ops.add, [scalars[s] * share for s, share in terms])

        total, losses = scalars[self._total], [value(terms) for terms in self._losses]
        extra = []
        if self._has_extra:
            known = functools.reduce(ops.logical_and, map(ops.isfinite, losses))
            # Beside a loss that is not finite nobody knows; then its gradient tells.
            extra = [ops.where(known, total - functools.reduce(ops.add, losses), 0.0)]
        parts = {name: [value(terms) for terms in found] for name, found in self._parts.items()}
        return {"losses": losses, "extra": extra, "total": [total], **parts}

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        seeds: dict[int, Tensor] = {}
        for index, seed in cotangents.items():
            for scalar, share in self._terms[index]:
                term = seed if share is None else seed * share
                seeds[scalar] = seeds[scalar] + term if scalar in seeds else term
        return self._recording.vjp(seeds, variables, last, sparse)

    def zeros(self, variable: int) -> Tensor:
        return self._recording.zeros(variable)

    def reach(self, scalars: Sequence[int]) -> Flags:
        found = [self._recording.reach([s for s, _ in self._terms[index]]) for index in scalars]
        return np.array([rows.any(axis=0) for rows in found], bool)
