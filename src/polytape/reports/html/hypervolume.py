"""The hypervolume of a few points, exactly: how much of a box of outcomes they dominate.

E. Zitzler, L. Thiele, "Multiobjective optimization using evolutionary algorithms" (PPSN 1998), is
where the measure is from; the recursion adds up what each point has to itself, as in L. While,
L. Bradstreet, L. Barone, "A fast way of calculating exact hypervolumes" (IEEE TEC 2012).
"""

from collections.abc import Sequence

import numpy as np

MARGIN = 0.1  # of the range of all runs: so far beyond the worst one lies the reference point
STEPS = 50_000  # of the recursion: beyond it is left out, not guessed


class TooManyPointsError(ValueError):
    """So many points in so many dimensions that the exact volume would take too long."""


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume of what is dominated by at least one point and dominates the reference.

    points     (n, d), less is better
    reference  (d,); points that are not better in every coordinate count for nothing
    returns    the volume, exact but for rounding; in the units of the objectives, multiplied

    Errors: TooManyPointsError; ValueError if a number is not finite.

    >>> hypervolume([(1, 3), (2, 1)], reference=(4, 4))
    7.0
    """
    matrix = np.array(points, float).reshape(-1, len(reference))
    corner = np.array(reference, float)
    if not (np.isfinite(matrix).all() and np.isfinite(corner).all()):
        raise ValueError("The hypervolume of a point that is not finite does not exist.")
    return _Volume(corner).of(matrix[(matrix < corner).all(axis=1)])


def scaled(
    points: Sequence[Sequence[float]],
    goals: Sequence[str],
    among: Sequence[Sequence[float]],
) -> np.ndarray:
    """Points on a scale from 0, the best of `among`, to 1, the reference point.

    The reference point is the worst of `among`, a tenth of the range beyond. The hypervolume of the
    result with a reference of ones is a share of the box, between 0 and 1.

    points  (n, d)
    goals   "max" or "min" for each objective
    among   (m, d) all outcomes; where they are equal, everything is 0

    >>> scaled([(0.5, 2.0)], ["max", "min"], among=[(0.5, 1.0), (0.9, 2.0)]).round(3).tolist()
    [[0.909, 0.909]]
    """
    signs = np.where(np.array(goals) == "max", -1.0, 1.0)
    down, all_down = np.array(points, float) * signs, np.array(among, float) * signs
    best, worst = all_down.min(axis=0), all_down.max(axis=0)
    width = (1 + MARGIN) * (worst - best)
    return np.where(width > 0, (down - best) / np.where(width > 0, width, 1.0), 0.0)


class _Volume:
    def __init__(self, reference: np.ndarray) -> None:
        self.reference = reference
        self.steps = 0

    def of(self, points: np.ndarray) -> float:
        points = _front(points)
        if points.shape[1] == 2:
            return self._plane(points)
        # The worst in the last coordinate first: what is left of the others is small.
        points = points[np.argsort(-points[:, -1], kind="stable")]
        return float(sum(self._alone(points, place) for place in range(len(points))))

    def _alone(self, points: np.ndarray, place: int) -> float:
        """What a point dominates and those after it do not."""
        self.steps += 1
        if self.steps > STEPS:
            raise TooManyPointsError(
                "Too many points in too many dimensions for an exact hypervolume."
            )
        point = points[place]
        shared = np.maximum(points[place + 1 :], point)
        rest = self.of(shared) if len(shared) else 0.0
        return float(np.prod(self.reference - point)) - rest

    def _plane(self, points: np.ndarray) -> float:
        points = points[np.argsort(points[:, 0], kind="stable")]
        ceilings = np.concatenate([self.reference[1:], points[:-1, 1]])
        return float(((self.reference[0] - points[:, 0]) * (ceilings - points[:, 1])).sum())


def _front(points: np.ndarray) -> np.ndarray:
    """The points that no other dominates, each once."""
    points = np.unique(points, axis=0)
    below = np.all(points[:, None] <= points[None, :], axis=-1)  # [i, j]: i dominates j, or is j
    return points[below.sum(axis=0) == 1]
