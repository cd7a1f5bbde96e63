"""What a user's `compute_loss` made of the losses: how much of each is in it, and what else."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.engines import Measure, Recording

_Terms = list[tuple[int, Tensor | None]]  # recorded scalars and what each is multiplied by; None: 1


class Returned:
    """A recording whose objectives are the losses as a total holds them.

    The total was computed from stand-ins of the losses, numbers that no variable has touched. So
    its derivative by a stand-in is the share that this loss has in it (1 in `super() + term`, 0.5
    in `0.5 * super()`), and its derivative by the variables that of the extra term, without
    anything that cancels.

    Scalars: the T losses times their shares, then what else the total holds if a variable reaches
    it, then the total as it was returned, and the losses of the halves of the batch if recorded.
    """

    outputs: Any
    measure: Measure
    marks: range
    stand_ins: range

    def __init__(
        self, recording: Recording, names: Sequence[str], of: Sequence[int], owner: str
    ) -> None:
        """recording  its scalars are the losses in the order of its stand-ins, as many again for
                   either half of the batch if these are wanted, and the total

        names      of the T objectives
        of         the objective, by place, of each stand-in: one has several if the losses were
                   evaluated more than once
        owner      whose total it is, for errors
        """
        self._recording = recording
        self.outputs, self.measure = recording.outputs, recording.measure
        self.marks, self.stand_ins = recording.marks, recording.stand_ins
        evaluated, last = len(recording.stand_ins), len(recording.scalars) - 1
        shares = recording.vjp({last: ops.ones(())}, recording.stand_ins)
        for t, name in enumerate(names):
            if all(share is None for share, own in zip(shares, of, strict=True) if own == t):
                raise ValueError(
                    f"{owner} evaluates the losses with super().compute_loss(...), and what it "
                    f"returns does not depend on that of {name!r}: it would not be trained. Return "
                    "what super().compute_loss(...) gives and what you add to it, or use "
                    'combine="sum".'
                )

        def objective(t: int, start: int = 0) -> _Terms:
            return [(start + s, c) for s, c in enumerate(shares) if of[s] == t and c is not None]

        objectives = range(len(names))
        self._losses = [objective(t) for t in objectives]
        halves = [objective(t, s) for s in range(evaluated, last, evaluated) for t in objectives]
        self._total, self._halves = last, halves
        self._extra: list[_Terms] = [[(last, None)]] if recording.reach([last]).any() else []
        whole = [*(term for terms in self._losses for term in terms), (last, None)]
        self._terms: list[_Terms] = [*self._losses, *self._extra, whole, *halves]
        self.scalars: Sequence[Tensor] = self.of(recording.scalars)

    def of(self, scalars: Sequence[Tensor]) -> list[Tensor]:
        """The scalars for those of another recording of the same losses."""

        def value(terms: _Terms) -> Tensor:
            return functools.reduce(ops.add, [scalars[s] * share for s, share in terms])

        total, losses = scalars[self._total], [value(terms) for terms in self._losses]
        extra = []
        if self._extra:
            known = functools.reduce(ops.logical_and, map(ops.isfinite, losses))
            # Beside a loss that is not finite nobody knows; then its gradient tells.
            extra = [ops.where(known, total - functools.reduce(ops.add, losses), 0.0)]
        return [*losses, *extra, total, *(value(terms) for terms in self._halves)]

    def vjp(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int], last: bool = False
    ) -> list[Tensor | None]:
        seeds: dict[int, Tensor] = {}
        for index, seed in cotangents.items():
            for scalar, share in self._terms[index]:
                term = seed if share is None else seed * share
                seeds[scalar] = seeds[scalar] + term if scalar in seeds else term
        return self._recording.vjp(seeds, variables, last)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = [self._recording.reach([s for s, _ in self._terms[index]]) for index in scalars]
        return np.array([rows.any(axis=0) for rows in found], bool)
