"""The direction whose projections on all unit gradients are as wanted."""

from typing import NamedTuple

from polytape.contract import Tensor, ops
from polytape.linalg.compressed import unit_rows
from polytape.linalg.cosine import CosineForm, cosine_form
from polytape.linalg.spectral import EPSILON, spectrum


class Projections(NamedTuple):
    """The pseudo-inverse of the cosines C, applied to a vector p.

    form      what C is of
    solution  (..., T)  C^+ p, up to a positive factor; zero where not alive, as what follows
    wanted    (..., T)  C C^+ p: p, as far as projections can be had
    square    (..., 1)  p' C^+ p, times the same factor
    """

    form: CosineForm
    solution: Tensor
    wanted: Tensor
    square: Tensor


def with_projections(
    gramian: Tensor, active: Tensor, p: Tensor, compressed: Tensor | None = None
) -> Projections:
    """The sum of unit gradients with projections p on each of them, in the least-squares sense.

    gramian     (..., T, T)  float32 inner products of gradients
    active      (..., T)     bool
    p           (..., T)     float32, zero where inactive
    compressed  (..., T, T)  what `compressed_rows` made of the gradients, or zeros; None: unknown

    From the Gramian alone, eigenvalues below T times the rounding of float32 count as zero: of
    gradients that balance each other to better than about 1e-3 rad all is zero. With compressed
    rows that is 1e-6 rad. Two gradients need no eigenvalues; only equal ones are an exception.

    >>> from keras import ops
    >>> gramian = ops.array([[1.0, 0.0], [0.0, 4.0]])
    >>> found = with_projections(gramian, ops.array([True, True]), ops.ones(2))
    >>> [float(v) for v in found.solution / found.square]
    [0.5, 0.5]
    """
    form = cosine_form(gramian, active)
    p = ops.where(form.alive, p, ops.zeros_like(p))
    found = _of_two(form, p) if p.shape[-1] == 2 else _of_many(form, p)
    if compressed is not None and p.shape[-1] > 2:
        unit, known = unit_rows(compressed, form.norms, form.alive), found
        found = ops.cond(ops.any(unit != 0), lambda: _of_rows(form, unit, p), lambda: known)
    solution, wanted = (ops.where(form.alive, v, ops.zeros_like(v)) for v in found[:2])
    return Projections(form, solution, wanted, found[2])


def _of_two(form: CosineForm, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By half the sum and half the difference of unit gradients, which are orthogonal.

    All is multiplied by what is small where they are opposed: then nothing is divided by that.
    """
    cosine = form.cosines[..., 0, 1:]
    same, other = 0.5 * (p + ops.flip(p, axis=-1)), 0.5 * (p - ops.flip(p, axis=-1))
    apart = cosine < 1.0 - 4 * EPSILON
    other = ops.where(apart, other, ops.zeros_like(other))
    ratio = (1.0 + cosine) / ops.where(apart, 1.0 - cosine, 1.0)
    solution = same + other * ratio
    wanted = same + other
    return solution, wanted, ops.sum(wanted * solution, axis=-1, keepdims=True)


def _of_many(form: CosineForm, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = spectrum(form.cosines)
    along = found.coordinates(p)
    # C y and y' C y from the coordinates: C is too ill-conditioned to be multiplied again.
    square = ops.sum(ops.square(along) / found.values, axis=-1, keepdims=True)
    return found.vector(along / found.values), found.vector(along), square


def _of_rows(form: CosineForm, unit: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In the base of eigenvectors, each measured by the combination of rows that it stands for."""
    base = ops.eigh(form.cosines)[1]
    mixed = ops.sum(base[..., :, :, None] * unit[..., :, None, :], axis=-3)
    sizes = ops.sqrt(ops.sum(ops.square(mixed), axis=-1))
    size = p.shape[-1]
    kept = sizes > 8 * size**0.5 * EPSILON
    sizes = ops.where(kept, sizes, ops.ones_like(sizes))
    turned = ops.where(kept[..., None], mixed / sizes[..., None], ops.zeros_like(mixed))
    along = ops.where(kept, ops.sum(base * p[..., :, None], axis=-2), ops.zeros_like(p))
    left = ops.sum(ops.square(along), axis=-1, keepdims=True)
    floor = (8 * size * EPSILON) ** 2 * ops.sum(ops.square(p), axis=-1, keepdims=True)
    along = ops.where(left > floor, along, ops.zeros_like(along))
    # Combinations are about orthogonal; where two of them are short, not quite.
    products = ops.sum(turned[..., :, None, :] * turned[..., None, :, :], axis=-1)
    inner = spectrum(products)
    # In units of the shortest, so that nothing leaves the range of float32.
    shortest = ops.min(ops.where(along != 0, sizes, 1.0), axis=-1, keepdims=True)
    lean = shortest / sizes
    pull = inner.coordinates(along * lean)
    middle = inner.vector(pull / inner.values) / inner.unit
    solution = ops.sum(base * (middle * lean)[..., None, :], axis=-1)
    wanted = ops.sum(base * along[..., None, :], axis=-1)
    return solution, wanted, ops.sum(along * middle * lean, axis=-1, keepdims=True)
