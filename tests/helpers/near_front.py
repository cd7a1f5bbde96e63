"""Gradients that are nearly stationary together, and the exact directions of methods there.

All exact directions are worked out in float64 from the same float32 rows that a method sees.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops
from scipy.optimize import nnls

import polytape as pt

Array = np.ndarray


def near_front(count: int, angle: float, seed: int = 0, width: int = 8) -> Array:
    """Rows (count, width), float32: a combination with positive weights is about `angle` long."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width))
    weights = rng.uniform(0.3, 1, count)
    rows -= np.outer(weights, weights @ rows) / (weights @ weights)
    aside = np.linalg.qr(np.vstack([rows[:-1], rng.normal(size=width)]).T)[0][:, -1]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows += angle * np.outer(rng.uniform(0.5, 1, count), aside)
    return np.float32(rows * rng.uniform(0.2, 4, (count, 1)))


def opposed(angle: float, ratio: float = 10.0, seed: int = 0, width: int = 8) -> Array:
    """Two rows, float32, an angle away from opposed, one `ratio` times as long."""
    rng = np.random.default_rng(seed)
    ahead, aside = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    return np.float32([ahead, ratio * (angle * aside - ahead)])


def unit(rows: Array) -> Array:
    rows = rows.astype("float64")
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def apart(one: Array, other: Array) -> float:
    """Angle between two directions, rad; 2 where one is zero."""
    if not np.any(one) or not np.any(other):
        return 2.0
    return float(np.linalg.norm(unit(one) - unit(other)))


def upgrad(rows: Array) -> Array:
    return np.sum([_freed(rows, u) for u in np.eye(len(rows))], axis=0)


def dual_proj(rows: Array) -> Array:
    return _freed(rows, np.ones(len(rows)))


def _freed(rows: Array, u: Array) -> Array:
    lengths = u * np.linalg.norm(rows.astype("float64"), axis=1)
    more = nnls(unit(rows).T, -(lengths @ unit(rows)))[0]
    return (lengths + more) @ unit(rows)


def mgda(rows: Array) -> Array:
    """The shortest of the points nearest to zero in the faces of the hull that have them inside."""
    rows, found = rows.astype("float64"), []
    for size in range(1, len(rows) + 1):
        for face in map(list, itertools.combinations(range(len(rows)), size)):
            edges = rows[face[1:]] - rows[face[0]]
            rest = np.linalg.lstsq(edges.T, -rows[face[0]], rcond=None)[0] if size > 1 else []
            weights = np.array([1 - np.sum(rest), *rest])
            found += [weights @ rows[face]] if weights.min() >= 0 else []
    return min(found, key=np.linalg.norm)


def even(rows: Array) -> Array:
    """The direction of the same cosine to all rows."""
    return np.linalg.lstsq(unit(rows), np.ones(len(rows)), rcond=None)[0]


def fair(rows: Array, alpha: float) -> Array:
    """The direction of w > 0 with G w = w^(-1/alpha): Newton's method in the singular vectors."""
    norms, p = np.linalg.norm(rows.astype("float64"), axis=1), 1 / alpha
    left, singular, _ = np.linalg.svd(unit(rows), full_matrices=False)
    demand = (norms / norms.max()) ** (p - 1)
    beta, step = demand ** (1 / (1 + p)), 1.0
    while step > 1e-12:
        gain = demand * beta**-p
        slope = singular**2 * (left.T @ beta) - left.T @ gain
        hessian = np.diag(singular**2) + left.T @ np.diag(p * gain / beta) @ left
        size = 1 / np.sqrt(np.diag(hessian))
        change = -np.linalg.solve(hessian * size[:, None] * size, slope * size) * size
        ratio = left @ change / beta
        step = np.abs(ratio).max()
        beta = beta * (1 + ratio / max(1.0, 1.5 * step))
    return beta @ unit(rows)


def aligned(rows: Array) -> Array:
    """Equal lengths along all singular vectors."""
    left, _, right = np.linalg.svd(rows.astype("float64"), full_matrices=False)
    return left.sum(axis=0) @ right


EXACT: dict[str, Callable[[Array], Array]] = {
    "upgrad": upgrad,
    "dualproj": dual_proj,
    "mgda": mgda,
    "imtlg": even,
    "config": even,
    "alignedmtl": aligned,
    "nashmtl": lambda rows: fair(rows, 1.0),
    "fairgrad": lambda rows: fair(rows, 2.0),
}


def gradients(rows: Array, variable: Any) -> pt.Gradients:
    """As of a loop of one's own: losses of which the gradients are these rows."""
    tensors = [ops.convert_to_tensor(row) for row in rows]

    def losses() -> dict[str, Any]:
        return {f"{index}": ops.sum(variable * row) for index, row in enumerate(tensors)}

    return pt.gradients(losses, [variable])
