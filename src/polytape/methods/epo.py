"""EPO: towards the point where the weighted losses are equal, then down along that ray."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from polytape.contract import Evidence, Method, Preference, Range, Scale, State, Tensor, ops
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.linear_programme import maximise
from polytape.linalg.preference import preferred
from polytape.linalg.reciprocal import or_one

_SIGN = 1e-6  # products below this share of their terms are rounding and count as zero
_EVEN = 1e-5  # weighted losses this near to equal leave nothing to balance: rounding, too
_SLACK = 1e-4  # room left by a bound that was lowered, so that the programme has an inside


@dataclass(frozen=True)
class EPO(Method):
    """Exact Pareto optimal search: the Pareto point at which all r_t L_t are equal.

    Mahapatra and Rajan, "Multi-Task Learning with User Preferences: Gradient Descent with
    Controlled Ascent in Pareto Optimization", ICML 2020, Algorithm 1. With l the shares of
    r_t L_t in their sum, mu = sum_t l_t log(T l_t) their distance from equal shares, and
    a_t = r_t (log(T l_t) - mu), the direction J^T a equalises them. Weights on the simplex solve a
    linear programme. While mu > tolerance (balance), it is

        max <J^T w, J^T a>    such that    (G w)_j >= min((G a)_j, 0) for (G a)_j <= 0,
                                           (G w)_j >= 0               for the largest r_j L_j,

    with all (G w)_j >= 0 if no (G a)_j is positive: losses may rise, but under control. Else
    (descent) it is

        max <J^T w, J^T 1>    such that    G w >= 0,  <J^T w, J^T a> >= min(0, max_j (G a)_j).

    T backward passes and at most two programmes, solved on the device to 1e-5 of their terms and
    better, 4e-8 as a rule; with the cosines of the gradients as float32 has them. Where the last
    bound contradicts G w >= 0 it is lowered to what can be had; published code falls back on w = r
    there. Programmes with several solutions give the middle of them, not a vertex. All this, and
    that the order of the objectives does not matter, holds for norms up to 1e12 apart; beyond,
    unknowns of one programme span more than float32 can weigh, and the update may change by some
    percent of its parts if the objectives change places.

    Weights: never negative. Degree 1 in the loss scale. Equal gradients: their sum. Opposed
    gradients: balance takes that of the larger r_t L_t, descent stands still. A zero row weighs
    zero, though its loss counts. T = 1: one. Losses are meant to be positive: shares are at least
    1e-7, equal if none is positive.

    Args:
        preference: r, one positive number per objective: the larger, the lower that loss ends.
            Rescaled to a mean of one over the active objectives; None: one each
        tolerance: mu below which the shares count as equal; 1e-4 as in published code
        scale: the paper's weights add up to one; published code multiplies them by T, as the
            default "sum" does

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.EPO(), [[1.0, 0.0], [0.0, 1.0]], losses=[3.0, 1.0])
        >>> [f"{float(w):.3f}" for w in weights]
        ['2.000', '0.000']
    """

    preference: Annotated[tuple[float, ...] | None, Preference()] = None
    tolerance: Annotated[float, Range(0.0, open="high")] = 1e-4
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "mean"
    reference: ClassVar[str] = "Mahapatra and Rajan, ICML 2020"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "scale-free"})
    exempt: ClassVar[dict[str, str]] = {"zero row": "its loss counts in the balance of losses"}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        form = cosine_form(evidence.gramian, evidence.active)
        worth, distance, push = self._adjustment(evidence)
        shortest = ops.min(ops.where(form.alive, form.norms, 3e38), axis=-1, keepdims=True)
        lean = ops.where(form.alive, shortest / form.norms, 0.0)
        # Unknowns are weights times norms, rows are divided by theirs, both in units of `shortest`.
        lengths = ops.where(form.alive, form.norms / shortest, 0.0)
        gain, rounding = _along(form, push * lengths)
        rising = ops.logical_and(form.alive, gain > rounding)
        balancing = distance > self.tolerance
        largest = worth >= ops.max(worth, axis=-1, keepdims=True)
        free = ops.logical_and(rising, ops.logical_and(balancing, ops.logical_not(largest)))
        bound = ops.where(ops.any(rising, axis=-1, keepdims=True), ops.minimum(gain, 0.0), 0.0)
        bound = ops.where(ops.logical_and(balancing, ops.logical_not(largest)), bound, 0.0)
        kept = ops.logical_and(form.alive, ops.logical_not(free))
        total, _ = _along(form, lengths)
        programmes = _Programmes(_unit(gain), _unit(total), *_rows(form, kept, bound), lean)
        unknowns = _solved(programmes, form.alive, balancing)
        weights = ops.where(form.alive, unknowns * lean, 0.0)
        total = ops.sum(weights, axis=-1, keepdims=True)
        return weights / or_one(total), state

    def _adjustment(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """r L (..., T), mu (..., 1) and a (..., T)."""
        wanted = preferred(evidence, self.preference)
        largest = ops.max(evidence.losses, axis=-1, keepdims=True)
        worth = wanted * ops.maximum(evidence.losses / ops.where(largest > 0, largest, 1.0), 0.0)
        total = ops.sum(worth, axis=-1, keepdims=True)
        active = ops.cast(evidence.active, "float32")
        share = ops.where(total > 0, worth / or_one(total), active / evidence.count)
        share = ops.where(evidence.active, ops.maximum(share, 1e-7), 0.0)
        excess = ops.where(evidence.active, share * evidence.count - 1.0, 0.0)
        even = ops.max(ops.abs(excess), axis=-1, keepdims=True) < _EVEN
        log = ops.where(even, 0.0, ops.log1p(excess))
        distance = ops.sum(share * log, axis=-1, keepdims=True)
        return worth, distance, ops.where(even, 0.0, wanted * (log - distance))


class _Programmes(NamedTuple):
    """What the two have in common: unknowns, and all bounds but the last."""

    gain: Tensor  # of balance
    total: Tensor  # gain of descent
    matrix: Tensor
    bound: Tensor
    lean: Tensor


def _solved(given: _Programmes, alive: Tensor, balancing: Tensor) -> Tensor:
    """Unknowns of balance, or of descent, where balance says how low the last bound is to be."""
    gain, total, matrix, bound, lean = given
    top = ops.max(ops.where(alive, gain / or_one(lean), -3e38), axis=-1, keepdims=True)
    moves = ops.any(gain != 0, axis=-1, keepdims=True)

    # A loop of one turn or two: like this there is one programme to compile.
    def turned(found: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        best = ops.sum(gain * found, axis=-1, keepdims=True)
        size = ops.sum(ops.abs(gain) * found, axis=-1, keepdims=True)
        least = ops.minimum(ops.minimum(top, best - _SLACK * size), 0.0)
        second = turn > 0
        limit = ops.where(ops.logical_and(second, moves), least, -1.0)
        rows = ops.concatenate([matrix, ops.where(second, gain, 0.0)[..., None, :]], axis=-2)
        limits = ops.concatenate([bound, limit], axis=-1)
        new = maximise(ops.where(second, total, gain), rows, limits, lean)
        return ops.where(ops.logical_and(second, balancing), found, new), turn + 1

    def going(_found: Tensor, turn: Tensor) -> Tensor:
        return turn < ops.where(ops.all(balancing), 1, 2)

    start = ops.zeros_like(gain), ops.zeros((), "int32")
    return ops.while_loop(going, turned, start)[0]


def _unit(vector: Tensor) -> Tensor:
    return vector / or_one(ops.max(ops.abs(vector), axis=-1, keepdims=True))


def _along(form: CosineForm, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Projection of a sum of unit rows on each of them, and what of it may be rounding."""
    terms = form.cosines * lengths[..., None, :]
    alive = ops.cast(form.alive, "float32")
    rounding = _SIGN * ops.sum(ops.abs(terms), axis=-1)
    return alive * ops.sum(terms, axis=-1), rounding


def _rows(form: CosineForm, kept: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Constraints of a programme; those not kept, and unknowns not alive, without effect."""
    both = ops.logical_and(kept[..., :, None], form.alive[..., None, :])
    return ops.where(both, form.cosines, 0.0), ops.where(kept, bound, -1.0)
