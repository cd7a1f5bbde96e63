"""Advice that follows from figures of gradients, each with its evidence and a line to try."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

STEPS = 10  # fewer say nothing of what is always so
FAR = 100.0  # times as long, and lengths are of different orders
DOMINANT = 0.9  # of the update
MOSTLY = 0.8  # of the steps
CLEAR = -0.1  # a cosine below it is a conflict that counts
FEW = 0.34  # of the places
RISE = 1.1  # a loss that ends so much higher has risen
STRETCH = 10.0  # an update so much longer or shorter than the sum of the gradients


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of S steps and T objectives, over the variables that several objectives train.

    Args:
        objectives: their names
        method: class name of what combines them, with what it wraps, as "Chain(Normalize, UPGrad)"
        norms: (S, T) norms of the gradients, NaN where an objective was not active
        cosines: (S, T, T) between them
        shares: (S, T) of the update; NaN where they are not known
        losses: (S, T)
        places: {layer or network: (S, T, T) cosines over its variables}
        single_pass: whether the method looks at no gradients, so that one backward pass is enough
        stretch: (S,) length of the update by that of the sum of the gradients; empty: not known
    """

    objectives: Sequence[str]
    method: str
    norms: np.ndarray
    cosines: np.ndarray
    shares: np.ndarray
    losses: np.ndarray
    places: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    single_pass: bool = False
    stretch: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def steps(self) -> int:
        """How many were measured."""
        return len(self.norms)


@dataclasses.dataclass(frozen=True)
class Advice:
    """Something to try.

    Args:
        evidence: what was measured, in a sentence
        text: what follows from it
        code: the line to try
    """

    evidence: str
    text: str
    code: str

    def __str__(self) -> str:
        return f"{self.evidence} {self.text} Try {self.code}"


def advise(measured: Measured) -> list[Advice]:
    """What follows from the figures; nothing if nothing does.

    Args:
        measured: the figures

    Returns:
        Advice, what concerns most first.
    """
    if len(measured.objectives) < 2 or not measured.steps:
        return []
    found: list[Advice] = []
    for rule in (_scales, _loser, _transfer, _nowhere, _concentrated, _stretched):
        found += rule(measured)
    return found


def _scales(of: Measured) -> Iterator[Advice]:
    """Gradients of different orders of magnitude, of which the long ones decide alone."""
    lengths, shares = _medians(of.norms), _medians(of.shares)
    there = np.flatnonzero(lengths > 0)
    if there.size < 2:
        return
    longest, shortest = there[lengths[there].argmax()], there[lengths[there].argmin()]
    ratio, share = lengths[longest] / lengths[shortest], shares[longest]
    if ratio >= FAR and share >= DOMINANT:
        yield Advice(
            f"The gradient of {of.objectives[longest]!r} is {ratio:.0f} times as long as that of "
            f"{of.objectives[shortest]!r} and makes up {100 * share:.0f} % of the update"
            f"{_of(of.steps)}.",
            "The others hardly count.",
            f"combine=pt.IMTLG(), or combine=pt.Chain(pt.Normalize(), {_inner(of.method)})",
        )


def _loser(of: Measured) -> Iterator[Advice]:
    """An objective that the others overrule nearly always."""
    if of.steps < STEPS:
        return
    known = np.isfinite(of.shares).sum(axis=0)
    negative = (np.where(np.isfinite(of.shares), of.shares, 1.0) < 0).sum(axis=0)
    for t, name in enumerate(of.objectives):
        if known[t] >= STEPS and negative[t] >= MOSTLY * known[t]:
            yield Advice(
                f"{name!r} had a negative share of the update in {negative[t]} of {known[t]} "
                "steps.",
                "The others overrule it, and to first order its loss rises.",
                'combine="upgrad", under which no loss rises to first order',
            )


def _transfer(of: Measured) -> Iterator[Advice]:
    """A loss that rises while the others pull against it."""
    if of.steps < 3 * STEPS:
        return
    third = of.steps // 3
    for t, name in enumerate(of.objectives):
        first, last = _median(of.losses[:third, t]), _median(of.losses[-third:, t])
        others = np.delete(of.cosines[:, t], t, axis=1)
        opposed = _median(others.min(axis=1)) if others.size else math.nan
        if first > 0 and last > RISE * first and opposed < CLEAR:
            yield Advice(
                f"The loss of {name!r} rose from {first:.3g} to {last:.3g}, and its gradient is "
                f"opposed to another's (median cosine {opposed:+.2f}).",
                "Negative transfer is to be suspected: train it alone, and compare.",
                f'compile(objectives=[pt.Objective("{name}", ...)]), or combine="upgrad"',
            )


def _nowhere(of: Measured) -> Iterator[Advice]:
    """No conflict at all, and a method that pays for looking at it."""
    pairs = _pairs(of.cosines)
    pairs = pairs[np.isfinite(pairs)]
    if of.steps < STEPS or not pairs.size or of.single_pass or (pairs < 0).any():
        return
    yield Advice(
        f"No two gradients were in conflict in {of.steps} steps "
        f"(lowest cosine {pairs.min():+.2f}).",
        "A method of one backward pass is enough.",
        'combine="sum", or one that balances losses, combine="dwa"',
    )


def _concentrated(of: Measured) -> Iterator[Advice]:
    """A conflict that lies in few places."""
    lowest = {}
    for place, cosines in of.places.items():
        pairs = _pairs(cosines)
        if np.isfinite(pairs).any():
            lowest[place] = float(_medians(pairs)[np.isfinite(_medians(pairs))].min(initial=1.0))
    bad = [place for place, cosine in lowest.items() if cosine < CLEAR]
    scoped = "PerVariable" in of.method or "PerNetwork" in of.method
    sound = [place for place, cosine in lowest.items() if cosine >= 0]
    apart = len(bad) + len(sound) == len(lowest)
    if scoped or len(lowest) < 3 or not bad or not apart or len(bad) > FEW * len(lowest):
        return
    worst = min(bad, key=lowest.__getitem__)
    yield Advice(
        f"The conflict lies in {len(bad)} of {len(lowest)} places: {', '.join(map(repr, bad[:3]))} "
        f"(cosine {lowest[worst]:+.2f}); elsewhere the gradients agree{_of(of.steps)}.",
        "One decision for all of them gives away what they agree on.",
        f"combine=pt.PerVariable({_inner(of.method)})",
    )


def _stretched(of: Measured) -> Iterator[Advice]:
    """An update whose length has nothing to do with that of the gradients."""
    if not of.stretch.size:
        return
    ratio = _median(of.stretch)
    if ratio >= STRETCH or 0 < ratio <= 1 / STRETCH:
        times = (
            f"{ratio:.0f} times as long as" if ratio > 1 else f"1/{1 / ratio:.0f} of the length of"
        )
        yield Advice(
            f"The update of {of.method} is {times} the sum of the gradients{_of(of.steps)}.",
            "A learning rate that was tuned for the sum does not fit.",
            f"optimizer=keras.optimizers.Adam(...), which divides by the length, or a learning "
            f"rate {'divided' if ratio > 1 else 'multiplied'} by {max(ratio, 1 / ratio):.0f}",
        )


def _inner(method: str) -> str:
    """The method as it is written, if it needs nothing to be made."""
    name = method.partition("(")[0]
    return "pt.UPGrad()" if name in ("", "Sum", "Mean", "Chain") else f"pt.{name}()"


def _pairs(cosines: np.ndarray) -> np.ndarray:
    """(S, T (T - 1) / 2)."""
    rows, columns = np.triu_indices(cosines.shape[-1], 1)
    return np.asarray(cosines[:, rows, columns])


def _medians(values: np.ndarray) -> np.ndarray:
    """Of each column what is a number; NaN if nothing is."""
    return np.array([_median(column) for column in values.T])


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _of(steps: int) -> str:
    return "" if steps == 1 else f" (medians of {steps} steps)"
