"""Jacobians on which solvers fail, built so that one knows why; Gramians seen in float64."""

import numpy as np

SIZES = (1, 2, 3, 8, 32, 64)


def _conditioned(rng, size, condition):
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return left * np.sqrt(np.logspace(0, -np.log10(condition), size)) @ right


def _spread(rng, rows, decades):
    """Rows of very different norm, the extremes `decades` apart."""
    norms = 10 ** (decades * (rng.permutation(len(rows)) / max(len(rows) - 1, 1) - 0.5))
    return rows * norms[:, None]


def jacobians(size):
    """{name: rows (T, n)}, float64, always the same."""
    rng = np.random.default_rng(size)
    wide = rng.normal(size=(size, 3 * size))
    half = -(-size // 2)
    found = {
        "wide": wide,
        "square": rng.normal(size=(size, size)),
        "zero row": wide * (np.arange(size) != size // 2)[:, None],
        "all zero": 0 * wide,
        "opposed": np.concatenate([wide[:half], -3 * wide[: size - half]]),
        "balanced": wide - wide.mean(axis=0),
        "duplicates": np.concatenate([wide[:half], wide[: size - half]]),
        "rank 1": rng.normal(size=(size, 1)),
        "half rank": rng.normal(size=(size, half)),
        "tiny": 1e-12 * wide,
        "huge": 1e12 * wide,
        "spread": _spread(rng, wide, 6),
        "spread, half rank": _spread(rng, rng.normal(size=(size, half)), 6),
        "spread, tiny": 1e-9 * _spread(rng, wide, 6),
        "spread, huge": 1e9 * _spread(rng, wide, 6),
    }
    for exponent in (2, 4, 6):
        found[f"condition 1e{exponent}"] = _conditioned(rng, size, 10.0**exponent)
        found[f"spread, condition 1e{exponent}"] = _spread(rng, found[f"condition 1e{exponent}"], 6)
    return found


def gramians(size):
    """Names, and the Gramians as one float32 batch (N, T, T)."""
    found = jacobians(size)
    return list(found), np.stack([rows @ rows.T for rows in found.values()]).astype("float32")


def unit(gramian):
    """Cosines and norms in float64; a zero row gets norm one and the row of the identity."""
    gramian = np.asarray(gramian, "float64")
    squared = np.diag(gramian)
    norms = np.sqrt(np.where(squared > 0, squared, 1.0))
    cosines = gramian / norms[:, None] / norms
    return cosines + np.diag(1 - np.diag(cosines)), norms


def breach(matrix, linear, y):
    """How far y is from solving min y'Ay/2 - b'y over y >= 0, entry by entry, at worst."""
    slack = matrix @ y - linear
    return max(np.max(np.maximum(np.minimum(y, slack), -slack)), np.max(-y))
