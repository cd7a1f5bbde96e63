"""From the numbers that a step left to a record: norms, Gramian, weights, shares."""

from collections.abc import Sequence

import numpy as np

from polytape.contract.types import Array, Flags, Numbers
from polytape.diagnostics.monitor_records import Figures, StepRecord
from polytape.training.monitor_state import Layout


def step_record(
    layout: Layout, numbers: Array, step: int, epoch: int, phase: int, seconds: float
) -> StepRecord:
    """The record of one phase of one step. numbers  (width,) as the step left them"""
    parts = _Parts(layout, numbers)
    every = range(len(layout.groups))
    networks = dict.fromkeys(network for network, _ in layout.groups if network)
    whole = parts.figures(every)
    return StepRecord(
        whole.norms,
        whole.gramian,
        whole.weights,
        whole.share,
        step,
        epoch,
        phase,
        round(seconds, 3),
        parts.named(parts.losses),
        {
            network: parts.figures([g for g in every if layout.groups[g][0] == network])
            for network in networks
        },
    )


class _Parts:
    """The numbers of a record, in float64, and what they say of any group of variables."""

    def __init__(self, layout: Layout, numbers: Array) -> None:
        parts = layout.parts(numbers.astype("float64"))
        self._layout, count = layout, len(layout.objectives)
        self._taken: Flags = parts["taken"] > 0
        # Where several objectives train: the weights of the block. Elsewhere: those of their own.
        blocks = [block for _, block in layout.groups]
        shared = parts["shared"]
        alone = shared[blocks] if layout.joint else np.tile(parts["private"], (len(blocks), 1))
        weights = np.stack([shared[blocks], alone], axis=1)
        weights = np.where(self._taken, weights, 0.0)
        self._weights: Numbers = np.pad(weights, [(0, 0), (0, 0), (0, 1)], constant_values=1.0)
        self._raw = parts["products"]
        # As they were before the weights of objectives were on them.
        given = np.where(parts["given"] == 0, np.nan, parts["given"])
        self.losses: Numbers = parts["losses"] / given
        self._here: Flags = np.isfinite(self.losses)
        self._products: Numbers = self._raw[:, :, :count, :count] / (given[:, None] * given)
        self._shown: Numbers = shared * np.where(self._taken, parts["given"], np.nan)

    def named(self, values: Numbers) -> dict[str, float]:
        """{objective: value}, to the precision in which it was measured."""
        return dict(zip(self._layout.objectives, map(_short, values), strict=True))

    def figures(self, groups: Sequence[int]) -> Figures:
        """Of all variables of some groups."""
        layout, chosen = self._layout, list(groups)
        products = self._products[chosen].sum(axis=0)
        squares = np.where(self._here, np.diagonal(products.sum(axis=0)), np.nan)
        blocks = {layout.groups[g][1] for g in chosen}
        weights = {}
        if layout.weighs and len(blocks) == 1:
            weights = self.named(self._shown[blocks.pop()])
        return Figures(
            self.named(np.sqrt(np.maximum(squares, 0.0))),
            self._gramian(products[0]),
            weights,
            self.named(self._share(chosen)) if layout.sums else {},
        )

    def _gramian(self, gramian: Numbers) -> list[list[float]]:
        if not gramian.any():  # no variable that several objectives train
            return []
        both = self._here[:, None] & self._here
        return [[_short(value) for value in row] for row in np.where(both, gramian, np.nan)]

    def _share(self, groups: list[int]) -> Numbers:
        """(T,) <w_t g_t, d> / <d, d>."""
        kept = np.append(self._taken, True)
        raw = np.where(kept[:, None] & kept, self._raw[groups], 0.0)
        sound = np.isfinite(raw[..., -1, -1])  # what is added was left out where it is not finite
        if not sound.all():
            raw[..., -1, :] = raw[..., :, -1] = 0.0
        weights = self._weights[groups]
        if self._layout.whole:
            numerators = weights * raw[..., -1]
            total = raw[..., -1, -1].sum()
        else:
            numerators = weights * np.einsum("gkij,gkj->gki", raw, weights)
            total = numerators.sum()
        found = np.full(len(self._taken), np.nan)
        if total > 0:
            found = numerators.sum(axis=(0, 1))[:-1] / total
        return np.where(self._taken, found, np.nan)


def _short(value: float) -> float:
    """To seven digits, which is what float32 holds."""
    return float(f"{value:.7g}")
