"""From the numbers that steps left to records: norms, Gramian, weights, shares."""

from collections.abc import Sequence

import numpy as np

from polytape.contract.types import Array, Flags, Numbers
from polytape.diagnostics.monitor_records import Figures, StepRecord
from polytape.training.monitor_state import Layout


def step_records(
    layout: Layout,
    numbers: Array,
    steps: Sequence[int],
    epoch: int,
    phase: int,
    seconds: Sequence[float],
) -> list[StepRecord]:
    """The records of one phase of R steps. numbers  (R, width) as the steps left them"""
    if not steps:
        return []
    tables = _Tables(layout, numbers)
    every = range(len(layout.groups))
    names = [*dict.fromkeys(network for network, _ in layout.groups if network)]
    whole = tables.figures([*every])
    networks = [tables.figures([g for g in every if layout.groups[g][0] == n]) for n in names]
    losses = tables.named(tables.losses)
    return [
        StepRecord(
            own.norms,
            own.gramian,
            own.weights,
            own.share,
            step,
            epoch,
            phase,
            round(moment, 3),
            loss,
            dict(zip(names, of_networks, strict=True)),
        )
        for step, moment, loss, own, *of_networks in zip(
            steps, seconds, losses, whole, *networks, strict=True
        )
    ]


class _Tables:
    """The numbers of R records, in float64, and what they say of any group of variables."""

    def __init__(self, layout: Layout, numbers: Array) -> None:
        parts = layout.parts(numbers.astype("float64"))
        self._layout, count = layout, len(layout.objectives)
        self._taken: Flags = parts["taken"] > 0
        # Where several objectives train: the weights of the block. Elsewhere: those of their own.
        blocks = [block for _, block in layout.groups]
        shared: Numbers = parts["shared"][:, blocks]
        own: Numbers = parts["private"][:, None]
        alone = shared if layout.joint else np.broadcast_to(own, shared.shape)
        weights = np.stack([shared, alone], axis=2)  # (R, groups, 2, T)
        weights = np.where(self._taken[:, None, None], weights, 0.0)
        before: Sequence[tuple[int, int]] = [(0, 0)] * 3
        self._weights: Numbers = np.pad(weights, [*before, (0, 1)], constant_values=1.0)
        self._raw = parts["products"]
        # As they were before the weights of objectives were on them.
        given = np.where(parts["given"] == 0, np.nan, parts["given"])
        self.losses: Numbers = parts["losses"] / given
        self._here: Flags = np.isfinite(self.losses)
        both: Numbers = given[:, :, None] * given[:, None, :]
        self._products: Numbers = self._raw[..., :count, :count] / both[:, None, None]
        taken = np.where(self._taken, parts["given"], np.nan)
        self._shown: Numbers = parts["shared"] * taken[:, None]

    def named(self, values: Numbers) -> list[dict[str, float]]:
        """{objective: value} of each record, of values (R, T)."""
        names = self._layout.objectives
        return [dict(zip(names, row, strict=True)) for row in _short(values)]

    def figures(self, groups: list[int]) -> list[Figures]:
        """Of all variables of some groups, for each record."""
        layout = self._layout
        products = self._products[:, groups].sum(axis=1)
        squares = np.diagonal(products.sum(axis=1), axis1=1, axis2=2)
        squares = np.where(self._here, np.maximum(squares, 0.0), np.nan)
        nothing: list[dict[str, float]] = [{}] * len(squares)
        weights = share = nothing
        blocks = {layout.groups[g][1] for g in groups}
        if layout.weighs and len(blocks) == 1:
            weights = self.named(self._shown[:, blocks.pop()])
        if layout.sums:
            share = self.named(self._share(groups))
        norms = self.named(np.sqrt(squares))
        return [
            Figures(*each)
            for each in zip(norms, self._gramians(products[:, 0]), weights, share, strict=True)
        ]

    def _gramians(self, gramians: Numbers) -> list[list[list[float]]]:
        some = [
            bool(each.any()) for each in gramians
        ]  # else no variable that several objectives train
        both = self._here[:, :, None] & self._here[:, None, :]
        rows = _short(np.where(both, gramians, np.nan).reshape(len(gramians), -1))
        count = len(self._layout.objectives)
        cuts = [slice(start, start + count) for start in range(0, count * count, count)]
        return [
            [row[cut] for cut in cuts] if there else []
            for row, there in zip(rows, some, strict=True)
        ]

    def _share(self, groups: list[int]) -> Numbers:
        """(R, T) <w_t g_t, d> / <d, d>."""
        kept = np.pad(self._taken, [(0, 0), (0, 1)], constant_values=True)
        both = kept[:, :, None] & kept[:, None, :]
        raw = np.where(both[:, None, None], self._raw[:, groups], 0.0)
        # What is added was left out where it is not finite.
        bad = ~np.isfinite(raw[..., -1, -1]).all(axis=(1, 2))
        raw[bad, :, :, -1, :] = raw[bad, :, :, :, -1] = 0.0
        weights = self._weights[:, groups]
        if self._layout.whole:
            numerators = weights * raw[..., -1]
            total = raw[..., -1, -1].sum(axis=(1, 2))
        else:
            numerators = weights * (raw @ weights[..., None])[..., 0]
            total = numerators.sum(axis=(1, 2, 3))
        total = np.where(total > 0, total, np.nan)
        found = numerators.sum(axis=(1, 2))[:, :-1] / total[:, None]
        return np.where(self._taken, found, np.nan)


def _short(values: Numbers) -> list[list[float]]:
    """To seven digits, which is what float32 holds."""
    with np.errstate(divide="ignore"):
        size = np.floor(np.log10(np.abs(values)))
    factor = 10.0 ** (6 - np.where(np.isfinite(size), size, 0.0))
    found: list[list[float]] = (np.round(values * factor) / factor).tolist()
    return found
