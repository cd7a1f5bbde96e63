"""Row matrices built to be difficult."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Matrix(NamedTuple):
    """Rows (T, n) float64 with a name, losses (T,), and the share of an update that laws forgive.

    The share stands for what float32 loses on these rows, relative to sum_t |w_t| |g_t|.

    Args:
        name: what errors call it
        rows: (T, n) float64
        losses: (T,) float64
        tolerance: the share of an update that laws forgive
    """

    name: str
    rows: Array
    losses: Array
    tolerance: float = 1e-3


def matrices() -> list[Matrix]:
    """Row matrices built to be difficult; always the same ones.

    Returns:
        The matrices, each with a name of its own.
    """
    rng = np.random.default_rng(20260)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    mix = [[1, 0, 0, 0], [-0.6, 1, 0, 0], [0.3, -0.5, 1, 0], [-0.4, 0.2, -0.3, 1]]
    rows = np.array(mix) @ basis[:4] * np.array([1.0, 2.0, 0.5, 3.0])[:, None]
    found = _regular(rows) | _singular(rows, basis) | _sizes(rows, rng)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    stretched = turn @ (np.array([1.0, 1e-2, 1e-5, 1e-6])[:, None] * basis[:4])
    return [
        *(Matrix(name, rows, np.linspace(1.0, 2.0, len(rows))) for name, rows in found.items()),
        Matrix("condition 1e6", stretched, np.ones(4), tolerance=3e-2),
        Matrix("losses of 1e-8 to 1e8", rows, np.array([1e-8, 1e8, 1.0, 1e3])),
    ]


def _regular(rows: Array) -> dict[str, Array]:
    return {
        "well conditioned": rows,
        "conflicting": rows - 0.8 * rows.mean(0),
        "tiny": rows * 1e-12,
        "huge": rows * 1e12,
        "spread": rows * np.array([1e3, 30.0, 1e-3, 100.0])[:, None],
        "half precision": np.float64(np.float16(rows)),
    }


def _singular(rows: Array, basis: Array) -> dict[str, Array]:
    a, b, c, _ = rows
    angles = np.radians([0.0, 30.0, 65.0, 100.0])[:, None]
    return {
        "zero row": np.stack([a, b, c, 0 * a]),
        "opposed": np.stack([a, b, c, -a]),
        "duplicates": np.stack([a, b, c, c]),
        "rank 1": np.outer([1.0, 2.0, -1.0, 0.5], a),
        "parallel": np.outer([1.0, 2.0, 3.0, 0.5], a),
        "rank 2": np.cos(angles) * basis[0] + np.sin(angles) * basis[1],
        "stationary": np.stack([a, b, c, -(a + 2 * b + 0.5 * c)]),
    }


def _sizes(rows: Array, rng: np.random.Generator) -> dict[str, Array]:
    many = np.linalg.qr(rng.normal(size=(80, 80)))[0][:64]
    return {
        "one": rows[:1],
        "two": rows[:2],
        "two opposed": np.stack([rows[0], -rows[0]]),
        "sixty-four": many - 0.9 * many.mean(0),
    }
