"""Non-negative quadratic programmes: the one solver behind min-norm points and dual cones."""

from collections.abc import Callable

import numpy as np

from polytape.contract import Tensor, ops
from polytape.linalg.solve import solve_spd

# Accepted residual, relative to the size of the solution: some ten roundings of float32.
TOLERANCE = 1e-6
_SLOP = 0.25 * TOLERANCE  # a breach that is rounding, relative to the largest entry
_BREACH = 1e-9  # likewise in float64, for b of at most one
_CHANCES = 3  # rounds that may pass without fewer breaches
_SMALL = 32  # up to which it is quicker to solve all problems in full at once
# What is added to the diagonal, less and less; which breaches move at once, as a share of the worst
_RIDGES = ((0.1, 0.3), (1e-2, 0.3), (1e-3, 0.6), (1e-4, 0.6), (0.0, 0.6))
_ROUNDS = 40  # on each
_REFINEMENTS = 5
_INTERIOR_STEPS = 40
_CENTRING = 0.1
_TO_BOUNDARY = 0.98


def nonneg_qp(matrix: Tensor, linear: Tensor) -> Tensor:
    """The y >= 0 that minimises `y' A y / 2 - b' y`, for each problem of a batch.

    matrix   (..., T, T)  A, float32, symmetric, positive definite, diagonal of about one: what
                          `with_ridge` makes of a matrix of cosines
    linear   (..., T)     b, float32, with the leading axes of `matrix` or axes that broadcast
    returns  (..., T)     y, float32. With s = A y - b the conditions y >= 0, s >= 0, y s = 0 hold
                          up to about 1e-6 of sum(y) + max|b|

    An entry that is not finite spoils its own problem only.

    Principal pivoting, one index at a time, the one with the largest breach: about as many cheap
    steps as the solution has positive entries. Where values may be read, all indices in breach move
    at once instead, each time with a solve in float64, which takes two or three of them. Either may
    cycle on matrices of low rank: the problems that it leaves go to a primal-dual interior-point
    method, which takes some fifteen solves whatever the matrix and keeps the best point it has
    seen.

    >>> from keras import ops
    >>> y = nonneg_qp(ops.array([[1.0, 0.5], [0.5, 1.0]]), ops.array([1.0, 0.8]))
    >>> [round(float(v), 4) for v in y]
    [0.8, 0.4]
    """
    size = ops.max(ops.abs(linear), axis=-1, keepdims=True)
    size = ops.where(size > 0, size, ops.ones_like(size))
    linear = linear / size
    found = _exchange(matrix, linear) if ops.eager() else _pivot(matrix, linear)
    if ops.eager() and not (found[1] > TOLERANCE).any():
        return found[0] * size
    return _interior(matrix, linear, found) * size


def refined(
    matrix: Tensor, y: Tensor, slack_of: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """A y >= 0 for which slack >= 0 and y slack = 0 hold better than for the one given.

    matrix    (..., T, T)  as for `nonneg_qp`, a little more than the derivative of the slack
    y         (..., T)     about the solution
    slack_of  a function of y (..., T): the slack (..., T), better known than `matrix @ y - b` would
              be, and the unit (..., 1) in which it is to be small

    Newton's method on the conditions, the positive part chosen anew in each step; of all points the
    best is kept. A step multiplies what is wrong by the share of the matrix that is not derivative.
    """
    identity = ops.eye(y.shape[-1], dtype=y.dtype)

    def advance(y: Tensor, best: Tensor, least: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        slack, unit = slack_of(y)
        fault = ops.abs(ops.minimum(y, slack / unit))
        best, least = _better((best, least), y, ops.max(fault, axis=-1, keepdims=True))
        inside = y - slack > 0
        both = ops.logical_and(inside[..., :, None], inside[..., None, :])
        outside = ops.where(inside, ops.zeros_like(y), y)
        pull = ops.where(inside, _times(matrix, outside) - slack, -y)
        change = solve_spd(ops.where(both, matrix, identity), pull)
        y = ops.where(inside, ops.maximum(y + change, 0.0), ops.zeros_like(y))
        return y, best, least, step + 1

    def going(*loop: Tensor) -> Tensor:
        return ops.logical_and(ops.any(loop[2] > _SLOP), loop[3] < _REFINEMENTS)

    start = (y, y, ops.full_like(y[..., :1], 1e30), ops.zeros((), dtype="int32"))
    return ops.while_loop(going, advance, start)[1]


def _times(matrix: Tensor, y: Tensor) -> Tensor:
    return ops.sum(matrix * y[..., None, :], axis=-1)


def _residual(matrix: Tensor, linear: Tensor, y: Tensor) -> Tensor:
    """Largest breach of the conditions by y >= 0, relative; (..., 1)."""
    slack = _times(matrix, y) - linear
    breach = ops.maximum(ops.minimum(y, slack), -slack)
    return ops.max(breach, axis=-1, keepdims=True) / (ops.sum(y, axis=-1, keepdims=True) + 1.0)


def _better(old: tuple[Tensor, Tensor], y: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    improved = residual < old[1]
    return ops.where(improved, y, old[0]), ops.where(improved, residual, old[1])


def _unsettled(limit: int) -> Callable[..., Tensor]:
    """Condition of a loop whose last variables are a residual and the number of steps taken."""

    def going(*loop: Tensor) -> Tensor:
        return ops.logical_and(ops.any(loop[-2] > TOLERANCE), loop[-1] < limit)

    return going


def _pivot(matrix: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """A y >= 0 and its residual, from moving one index at a time in or out of the positive part.

    Every problem keeps a matrix S and, as its last row, a vector t, swept on its positive part:
    there t is -y, elsewhere the slack `A y - b`. To sweep j is to subtract u u' / d from S, u being
    its column j less the j-th unit vector. `side` is -1 in the positive part, 1 elsewhere; side - 1
    is what the diagonal of S lacks, of which d, the pivot, is an entry.
    """
    size = linear.shape[-1]
    index = ops.arange(size, dtype="int32")

    def sweep(S: Tensor, side: Tensor, moving: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        del moving
        t = S[..., size, :]
        breach = -side * t - _SLOP * ops.max(ops.abs(t), axis=-1, keepdims=True)
        j = ops.argmax(breach, axis=-1, keepdims=True)
        column = ops.take_along_axis(S, j[..., None], axis=-1)[..., 0]
        here = ops.cast(ops.equal(index, j), t.dtype)
        # One sum for both: XLA's compiled sums cost something even where they are not reached.
        pair = ops.stack([column[..., :size] + side, breach], axis=-2)
        found = ops.sum(pair * here[..., None, :], axis=-1)
        pivot, worst = found[..., :1] - 1, found[..., 1:]
        live = ops.cast(worst > 0, t.dtype)
        here = live * here
        u = column - ops.pad(here, [*[(0, 0)] * (len(here.shape) - 1), (0, 1)])
        w = u[..., :size] * (live / pivot)
        S = S - u[..., :, None] * w[..., None, :]
        return S, side * (1 - 2 * here), ops.any(worst > 0), step + 1

    def going(S: Tensor, side: Tensor, moving: Tensor, step: Tensor) -> Tensor:
        del S, side
        return ops.logical_and(moving, step <= 2 * size)

    S = ops.broadcast_to(matrix, (*linear.shape, size))
    S = ops.concatenate([S, -linear[..., None, :]], axis=-2)
    start = S, ops.ones_like(linear), ops.ones((), "bool"), ops.zeros((), "int32")
    S, side = ops.while_loop(going, sweep, start)[:2]
    t = S[..., size, :]
    y = ops.where(side < 0, ops.maximum(-t, 0.0), 0.0)
    nothing = ops.zeros_like(t), ops.full_like(t[..., :1], 1e30)
    return _better(nothing, y, _residual(matrix, linear, y))


def _exchange(matrix: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """A y >= 0 and its residual, from moving all indices in breach in or out of the positive part.

    Source: block principal pivoting, Judice & Pires 1994. A problem whose breaches do not become
    fewer, as may be where the matrix is of low rank, is solved by itself.
    """
    A, b = matrix.astype("float64"), linear.astype("float64")
    inside = b > 0
    y, slack = np.zeros(b.shape), -b
    left: Tensor = np.True_  # problems that are not settled
    fewest: Tensor = np.inf  # breaches so far
    chances: Tensor = _CHANCES
    while True:
        if inside.any():
            y = _inside(A, b, inside, y, left)
            slack = _pulls(A, y) - b
        breach = left & (np.where(inside, y, slack) < -_BREACH)
        if not breach.any():
            break
        count = breach.sum(axis=-1, keepdims=True)
        chances = np.where(count < fewest, _CHANCES, chances - 1)
        fewest = np.minimum(count, fewest)
        left = (count > 0) & (chances >= 0)
        stuck = (count > 0) & (chances < 0)
        if stuck.any():
            whole = np.broadcast_to(A, (*b.shape, b.shape[-1]))
            for place in np.ndindex(b.shape[:-1]):
                if stuck[place][0]:
                    guess = inside[place]
                    if b.shape[-1] > _SMALL:
                        guess = _followed(whole[place], b[place])
                    y[place] = _one_by_one(whole[place], b[place], guess)
            slack, inside = _pulls(A, y) - b, np.where(stuck, y > 0, inside)
        inside = inside ^ (breach & left)
    y = np.maximum(y, 0.0)
    wrong = np.maximum(np.minimum(y, slack), -slack).max(axis=-1, keepdims=True)
    residual = wrong / (y.sum(axis=-1, keepdims=True) + 1.0)
    return y.astype("float32"), np.where(np.isnan(residual), np.inf, residual)


def _inside(A: Tensor, b: Tensor, inside: Tensor, y: Tensor, left: Tensor) -> Tensor:
    """y anew for problems that are left: without slack inside, zero outside."""
    size = b.shape[-1]
    if size <= _SMALL:
        both = inside[..., :, None] & inside[..., None, :]
        pull = np.where(inside, b, 0.0)
        return np.linalg.solve(np.where(both, A, ops.eye(size, dtype="float64")), pull[..., None])[
            ..., 0
        ]
    whole, y = np.broadcast_to(A, (*b.shape, size)), np.where(left, 0.0, y)
    for place in np.ndindex(b.shape[:-1]):
        if left is np.True_ or left[place][0]:
            at = np.flatnonzero(inside[place])
            y[place][at] = np.linalg.solve(whole[place][np.ix_(at, at)], b[place][at])
    return y


def _pulls(A: Tensor, y: Tensor) -> Tensor:
    """`A @ y`, symmetric matrices (..., T, T) and vectors (..., T); a product if there is one A."""
    if A.ndim > 2 and A.shape[-3] == 1:
        return y @ A[..., 0, :, :]
    return np.matmul(A, y[..., None])[..., 0]


def _followed(matrix: Tensor, linear: Tensor) -> Tensor:
    """(T,) bool: where the y of one problem (T, T), (T,) is positive, in all likelihood.

    With more on the diagonal few rounds of exchanges settle it, whatever the rank, and little
    changes when a part of that is taken away: so it is followed from there, the worst breaches
    moving first.
    """
    inside = linear > 0
    for ridge, share in _RIDGES:
        for _ in range(_ROUNDS):
            at = np.flatnonzero(inside)
            among = matrix[np.ix_(at, at)]
            among.flat[:: len(at) + 1] += ridge
            y = np.zeros_like(linear)
            y[at] = np.linalg.solve(among, linear[at])
            excess = np.where(inside, y, matrix @ y + ridge * y - linear)
            if not (excess < -_BREACH).any():
                break
            worst = [excess[side].min(initial=0.0) for side in (~inside, inside)]
            limit = share * np.where(inside, worst[1], worst[0])
            inside = inside ^ (excess < np.minimum(limit, -_BREACH))
    return inside


def _one_by_one(matrix: Tensor, linear: Tensor, inside: Tensor) -> Tensor:
    """The y >= 0 of one problem (T, T), (T,): the objective falls with every index that joins.

    inside  (T,) bool: where y is positive, at a guess

    Source: the active-set method of Lawson & Hanson 1974.
    """

    def goal_of(inside: Tensor) -> Tensor:
        goal, at = np.zeros_like(linear), np.flatnonzero(inside)
        goal[at] = np.linalg.solve(matrix[np.ix_(at, at)], linear[at])
        return goal

    inside, y = inside.copy(), goal_of(inside)
    while (y[inside] <= 0).any():
        inside &= y > 0
        y = goal_of(inside)
    for _ in range(3 * len(linear)):
        pull = np.where(inside, -np.inf, linear - matrix @ y)
        best = np.argmax(pull)
        if not pull[best] > _BREACH:
            break
        inside[best] = True
        goal = goal_of(inside)
        while (below := inside & (goal <= 0)).any():
            step = (y[below] / (y[below] - goal[below])).min()
            y = y + step * (goal - y)
            inside &= ~(below & (y <= _BREACH * np.abs(y).max()))
            y = np.where(inside, y, 0.0)
            goal = goal_of(inside)
        y = goal
    return y


def _interior(matrix: Tensor, linear: Tensor, best: tuple[Tensor, Tensor]) -> Tensor:
    """Best y, from there, by a path-following method; no steps if none are needed."""
    count = linear.shape[-1]
    identity = ops.eye(count, dtype=linear.dtype)

    def advance(
        y: Tensor, s: Tensor, top: Tensor, residual: Tensor, step: Tensor
    ) -> tuple[Tensor, ...]:
        slack = _times(matrix, y) - linear
        target = _CENTRING * ops.sum(y * s, axis=-1, keepdims=True) / count
        # Rows are brought to a unit diagonal first: s / y spans many orders of magnitude.
        ratio = s / y
        unit = 1 / ops.sqrt(1 + ratio)
        newton = (matrix + identity * ratio[..., None, :]) * unit[..., :, None] * unit[..., None, :]
        dy = solve_spd(newton, (target / y - slack) * unit) * unit
        ds = (target - s * dy) / y - s
        shrink = ops.concatenate([-dy / y, -ds / s], axis=-1)
        shrink = ops.max(shrink, axis=-1, keepdims=True)
        length = ops.minimum(1.0, _TO_BOUNDARY / ops.maximum(shrink, 1e-6))
        y, s = y + length * dy, s + length * ds
        top, residual = _better((top, residual), y, _residual(matrix, linear, y))
        return y, s, top, residual, step + 1

    y = ops.ones_like(linear)
    s = ops.maximum(_times(matrix, y) - linear, 1.0)
    start = (y, s, *best, ops.zeros((), dtype="int32"))
    return ops.while_loop(_unsettled(_INTERIOR_STEPS), advance, start)[2]
