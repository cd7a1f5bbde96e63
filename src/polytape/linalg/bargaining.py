"""Bargaining: weights under which every objective gains in proportion to a power of its weight."""

from polytape.contract import Tensor, ops
from polytape.linalg.compressed import along, gains, length, unit_rows
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.reciprocal import or_one
from polytape.linalg.solve import solve_spd, with_ridge

_STEPS = 300  # 10 do, but for 64 objectives at an extreme alpha
_TURNS = 50
# Relative steps, for powers up to one, and shorter in proportion above: Newton's error after a step
# is about the square of the step, times the power.
_LAST_STEP = 1e-3
_NEAR = 0.1  # a step below this that does not halve the last one is rounding
_TO_BOUNDARY = 0.99
_ROUNDING = 3e-7  # gains as near as this to those demanded, relatively, are as good as float32
_LEAST_ALONE = 1e-30  # of the largest: far below the floor, and one over it is in float32
_UTMOST = 1e37  # of a power
_LEAST = 4e-12  # a ridge beside cosines of rows: twice the square of what float32 rows may hide
_FLOOR = 1e-8  # of the largest entry: smaller ones count for nothing in a float32 direction


def bargain(
    gramian: Tensor,
    active: Tensor,
    alpha: float = 1.0,
    share: Tensor | None = None,
    compressed: Tensor | None = None,
) -> Tensor:
    """The a > 0 with G a = (share / a)^(1/alpha), objective by objective.

    gramian  (..., T, T)  float32 inner products of gradients
    active   (..., T)     bool
    alpha    float > 0    1 is the Nash bargaining solution, larger values lean towards max-min
    share    (..., T)     float32, positive where active: the bargaining powers; one each, if None
    compressed  (..., T, T)  what `compressed_rows` made of the gradients, or zeros; None: unknown
    returns  (..., T)     float32, positive; zero for inactive objectives and zero rows

    Source: Navon et al. 2022, claim 3.1 (alpha = 1), and Ban & Ji 2024, eq. 7. The equations are
    the stationarity of the convex function a' G a / 2 - sum(share^p a^(1-p)) / (1-p), p = 1 / alpha
    (- sum share log a if p = 1). It is minimised by Newton's method in cosine coordinates, begun at
    the solution for orthogonal gradients. A step goes as far as the function falls, and at least
    1 / (1 + c max|da / a|) of the way, c = max(1, (1+p) / 2), which keeps the point positive and
    tends to the full step. It stops where the problem moves by less than 0.1 % / c.

    A ridge of 1e-6 (4e-6 for T = 64) on the cosines keeps the weights bounded where some
    a >= 0 has J' a = 0 (a Pareto-stationary point) and the equations have no solution: entries of
    norm * a then end near 1e6^(alpha / (1 + alpha)). Those that would be below 1e-8 of the largest,
    as happens where norms are far apart or alpha is 4 and more, end there. The gains of all others
    are as demanded to 1e-5 of their parts, whatever the norms; to 5e-5 for alpha = 0.01, to 2e-3
    for 1e30, and to 1e-2 there for 64 objectives. T = 1: a = norm^(-2 alpha / (1 + alpha)).

    >>> from keras import ops
    >>> a = bargain(ops.array([[4.0, 0.0], [0.0, 1.0]]), ops.array([True, True]))
    >>> [round(float(x), 4) for x in a]
    [0.5, 1.0]
    """
    power = 1.0 / alpha
    form = cosine_form(gramian, active)
    longest = ops.max(ops.where(form.alive, form.norms, 0.0), axis=-1, keepdims=True)
    longest = ops.where(longest > 0, longest, ops.ones_like(longest))
    # What orthogonal gradients would get: any alpha and any norms leave that in float32, as they
    # would not leave the demands.
    exponent = (power - 1.0) / (power + 1.0)
    alone = (ops.where(form.alive, form.norms, longest) / longest) ** exponent
    if share is not None:
        powers = ops.where(form.alive, share, ops.ones_like(share))
        alone = alone * powers ** (power / (power + 1.0))
    largest = ops.max(alone, axis=-1, keepdims=True)
    alone = ops.maximum(alone / largest, _LEAST_ALONE)
    beta = _newton(with_ridge(form.cosines), alone, power)
    if compressed is not None:
        unit = unit_rows(compressed, form.norms, form.alive)
        rough = beta
        beta = ops.cond(
            ops.any(unit != 0), lambda: _turned(form, unit, alone, power, rough), lambda: rough
        )
    # In units of the longest row the equations are those of `_newton`, times this factor.
    factor = longest**exponent * largest
    return ops.where(form.alive, beta * factor / form.norms, ops.zeros_like(beta))


def _demanded(alone: Tensor, beta: Tensor, power: float) -> Tensor:
    """The gains that beta asks for, which are those of `beta = alone` for orthogonal gradients."""
    return alone * ops.minimum((beta / alone) ** -power, _UTMOST)


def _newton(matrix: Tensor, alone: Tensor, power: float) -> Tensor:
    """Solution of `matrix @ beta = alone * (beta / alone)^-power`."""
    identity = ops.eye(alone.shape[-1], dtype=alone.dtype)
    damping = max(1.0, (1.0 + power) / 2.0)  # Newton's steps are good below one over this

    def going(beta: Tensor, moved: Tensor, step: Tensor) -> Tensor:
        del beta
        return ops.logical_and(ops.any(moved > _LAST_STEP / damping), step < _STEPS)

    def advance(beta: Tensor, moved: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gain = _demanded(alone, beta, power)
        curvature = power * gain / beta
        unit = 1 / ops.sqrt(1 + curvature)
        hessian = matrix + identity * curvature[..., None, :]
        hessian = hessian * unit[..., :, None] * unit[..., None, :]
        slope = _times(matrix, beta) - gain
        # What would go below the floor stays there, and the others know that it does.
        free = ops.logical_or(beta > floor, slope < 0)
        both = ops.logical_and(free[..., :, None], free[..., None, :])
        pull = ops.where(free, -slope, 0.0)
        change = solve_spd(ops.where(both, hessian, identity), pull * unit) * unit
        ratio = ops.where(beta <= floor, ops.maximum(change, 0.0), change) / beta
        size = ops.max(ops.abs(ratio), axis=-1, keepdims=True)
        error = ops.max(ops.abs(pull) / _times(ops.abs(matrix), beta), axis=-1, keepdims=True)
        stuck = ops.logical_and(size < _NEAR / damping, 2 * size > moved)
        length = ops.maximum(1 / (1 + damping * size), _farthest(matrix, alone, power, beta, ratio))
        # One that is done waits for the others of the batch: rounding would move it about.
        done = ops.logical_or(moved <= _LAST_STEP / damping, error < _ROUNDING)
        beta = ops.where(done, beta, ops.maximum(beta * (1 + ratio * length), floor))
        return beta, ops.where(ops.logical_or(stuck, done), 0.0, size), step + 1

    # The best common multiple of what orthogonal gradients would get.
    square = ops.sum(alone * _times(matrix, alone), axis=-1, keepdims=True)
    size = ops.sum(alone * alone, axis=-1, keepdims=True)
    beta = alone * (size / ops.maximum(square, 1e-6 * size)) ** (1.0 / (1.0 + power))
    floor = _FLOOR * ops.max(beta, axis=-1, keepdims=True)
    start = (beta, ops.full_like(floor, 1e30), ops.zeros((), dtype="int32"))
    return ops.while_loop(going, advance, start)[0]


def _turned(form: CosineForm, unit: Tensor, alone: Tensor, power: float, rough: Tensor) -> Tensor:
    """The solution without a ridge, as far as rows can tell, made as long as the one with it.

    Solutions for gains that are all multiplied by a number are parallel: the ridge bounds the
    length of the update, and here it does nothing else. Newton's method in the base of
    eigenvectors, where short combinations of gradients are small numbers, not small differences.
    """
    base = ops.eigh(form.cosines)[1]
    mixed = ops.sum(base[..., :, :, None] * unit[..., :, None, :], axis=-3)
    blank = ops.where(form.alive, 0.0, ops.ones_like(alone))
    added = _LEAST + blank  # entries that are not alive have a system of their own
    damping = max(1.0, (1.0 + power) / 2.0)
    floor = _FLOOR * ops.max(rough, axis=-1, keepdims=True)

    def turned(vector: Tensor) -> Tensor:
        return ops.sum(base * vector[..., :, None], axis=-2)

    def rest(beta: Tensor) -> tuple[Tensor, Tensor]:
        """What is missing in the equations, in that base and relative to the update; (..., 1)."""
        direction, gain = along(unit, beta), _demanded(alone, beta, power)
        slope = gains(mixed, direction) + turned(added * beta - gain)
        own = gains(unit, direction) + added * beta - gain
        fault = ops.max(ops.abs(ops.where(form.alive, own, 0.0)), axis=-1, keepdims=True)
        return slope, fault / or_one(length(direction))

    def advance(
        beta: Tensor, best: Tensor, least: Tensor, moved: Tensor, step: Tensor
    ) -> tuple[Tensor, ...]:
        slope, _ = rest(beta)
        curvature = power * _demanded(alone, beta, power) / beta + added
        outer = base[..., :, :, None] * base[..., :, None, :] * curvature[..., :, None, None]
        products = ops.sum(mixed[..., :, None, :] * mixed[..., None, :, :], axis=-1)
        hessian = products + ops.sum(outer, axis=-3)
        size = 1 / ops.sqrt(ops.diagonal(hessian, axis1=-2, axis2=-1))
        hessian = hessian * size[..., :, None] * size[..., None, :]
        change = -solve_spd(hessian, slope * size) * size
        ratio = ops.sum(base * change[..., None, :], axis=-1) / beta
        far = ops.max(ops.abs(ratio), axis=-1, keepdims=True)
        near = ops.logical_and(far < _NEAR / damping, 2 * far > moved)
        # Too short a step, or none that could make an entry negative.
        beta = ops.maximum(beta * (1 + ratio / ops.maximum(1.0, damping * far)), floor)
        _, fault = rest(beta)
        better = fault < least
        best, least = ops.where(better, beta, best), ops.where(better, fault, least)
        return beta, best, least, ops.where(near, 0.0, far), step + 1

    def going(*loop: Tensor) -> Tensor:
        return ops.logical_and(ops.any(loop[3] > _LAST_STEP / damping), loop[4] < _TURNS)

    _, fault = rest(rough)
    start = (rough, rough, fault, ops.full_like(fault, 1e30), ops.zeros((), dtype="int32"))
    beta = ops.while_loop(going, advance, start)[1]
    long, wanted = length(along(unit, beta)), length(along(unit, rough))
    return beta * ops.where(long > wanted, wanted / or_one(long), 1.0)


def _farthest(matrix: Tensor, alone: Tensor, power: float, beta: Tensor, ratio: Tensor) -> Tensor:
    """Largest of some lengths (..., 1) up to the full step at which the function still falls."""
    change = beta * ratio
    least = ops.max(-ratio, axis=-1, keepdims=True)
    lengths = ops.minimum(1.0, _TO_BOUNDARY / ops.maximum(least, 1e-6)) * _halvings(alone.dtype)
    there = beta[..., None, :] * (1 + lengths[..., :, None] * ratio[..., None, :])
    gains = _demanded(alone[..., None, :], there, power)
    slope = (
        ops.sum(change * _times(matrix, beta), axis=-1, keepdims=True)
        + lengths * ops.sum(change * _times(matrix, change), axis=-1, keepdims=True)
        - ops.sum(change[..., None, :] * gains, axis=-1)
    )
    return ops.max(ops.where(slope <= 0, lengths, 0.0), axis=-1, keepdims=True)


def _halvings(dtype: str) -> Tensor:
    return ops.convert_to_tensor([2.0**-k for k in range(14)], dtype=dtype)


def _times(matrix: Tensor, beta: Tensor) -> Tensor:
    return ops.sum(matrix * beta[..., None, :], axis=-1)
