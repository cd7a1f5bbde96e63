"""Long curves with fewer points, honestly: no extreme is lost, no mean is passed off as a value."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Series(NamedTuple):
    """x (n,) ascending, y (n,), NaN where there is no number."""

    x: np.ndarray
    y: np.ndarray


class Band(NamedTuple):
    """Over several runs: x (n,), the mean, the lowest and the highest (n,)."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def fenced(band: Band, count: int) -> tuple[Series, Series]:
    """The lower and the upper edge of a band in `count` windows: steps around all that is in it.

    >>> band = Band(np.arange(4.0), *[np.array([1.0, 2.0, 4.0, 3.0])] * 3)
    >>> [edge.y.tolist() for edge in fenced(band, 2)]
    [[1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 4.0, 4.0]]
    """
    if len(band.x) <= count:
        return Series(band.x, band.low), Series(band.x, band.high)
    xs, lows, highs = [], [], []
    for start, stop in _windows(len(band.x), count):
        xs += [band.x[start], band.x[stop - 1]]
        lows += [_extreme(band.low[start:stop], np.inf)] * 2
        highs += [_extreme(band.high[start:stop], -np.inf)] * 2
    x = np.array(xs)
    return Series(x, np.array(lows)), Series(x, np.array(highs))


def window_means(x: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (r, n) over x (n,) as at most `count` columns: the mean of the numbers in each window.

    >>> x, rows = window_means(np.arange(4.0), np.array([[1.0, 3.0, np.nan, np.nan]]), 2)
    >>> x.tolist(), rows.tolist()
    ([0.5, 2.5], [[2.0, nan]])
    """
    if len(x) <= count:
        return x, rows
    windows = _windows(len(x), count)
    means = [mean_of(rows[:, start:stop], axis=1) for start, stop in windows]
    centres = np.array([x[start:stop].mean() for start, stop in windows])
    return centres, np.stack(means, axis=1)


def over_runs(runs: Sequence[Series]) -> Band:
    """The mean, the lowest and the highest over runs, at each x over those runs that have it.

    >>> one = Series(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    >>> two = Series(np.array([1.0, 2.0]), np.array([3.0, np.nan]))
    >>> over_runs([one, two]).mean.tolist()
    [2.0, 1.0, 1.0]
    """
    x = np.unique(np.concatenate([run.x for run in runs]))
    table = np.full((len(runs), len(x)), np.nan)
    for row, run in zip(table, runs, strict=True):
        row[np.searchsorted(x, run.x)] = run.y
    known = np.isfinite(table)
    nowhere = ~known.any(axis=0)
    low = np.where(nowhere, np.nan, np.where(known, table, np.inf).min(axis=0))
    high = np.where(nowhere, np.nan, np.where(known, table, -np.inf).max(axis=0))
    return Band(x, mean_of(table, axis=0), low, high)


def mean_of(numbers: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the finite numbers along an axis, NaN where there are none."""
    known = np.isfinite(numbers)
    count = known.sum(axis=axis)
    total = np.where(known, numbers, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _windows(length: int, count: int) -> list[tuple[int, int]]:
    """[start, stop) of windows as equal as may be, none empty."""
    edges = np.unique(np.linspace(0, length, min(count, length) + 1).astype(int)).tolist()
    return list(pairwise(edges))


def _extreme(window: np.ndarray, worst: float) -> float:
    known = window[np.isfinite(window)]
    if not len(known):
        return float("nan")
    return float(known.min() if worst > 0 else known.max())


def mean_over(series: Sequence[Series]) -> float:
    """Of all numbers of all runs, each run counting alike; NaN if there is none."""
    means = np.array([mean_of(one.y, axis=0) for one in series], float)
    return float(mean_of(means, axis=0)) if len(means) else float("nan")
