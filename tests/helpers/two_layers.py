"""A linear trunk with two linear heads, and everything about its gradients in NumPy, by hand."""

import numpy as np

Array = np.ndarray
RNG = np.random.default_rng(25)  # features in conflict, weights far from 0 and 1
X = RNG.normal(size=(8, 4)).astype("float32")
Y = {name: RNG.normal(size=(8, 1)).astype("float32") for name in "ab"}
TRUNK = RNG.normal(size=(4, 3)).astype("float32")
HEADS = {name: RNG.normal(size=(3, 1)).astype("float32") for name in "ab"}
SIZES = {"a": 1.0, "b": 3.0}  # of the losses, mean squared errors


def by_hand(trunk: Array, heads: dict[str, Array]) -> tuple[list[Array], list[Array], Array]:
    """Gradients by the hidden layer (T, n), by each objective's own head, and by its output."""
    hidden = X.astype("float64") @ trunk
    features, own, outputs = [], [], []
    for name, head in heads.items():
        error = SIZES[name] * 2.0 / len(X) * (hidden @ head - Y[name])
        features.append(error @ head.T)
        own.append(hidden.T @ error)
        outputs.append(error)
    return features, own, outputs


def gramian(rows: list[Array]) -> Array:
    flat = np.stack([row.ravel() for row in rows])
    return flat @ flat.T


def min_norm(g: Array) -> Array:
    """MGDA's weights of two gradients: the closed form of Sener & Koltun, eq. 4."""
    share = (g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1])
    share = np.clip(share, 0.0, 1.0)
    return np.array([share, 1.0 - share])
