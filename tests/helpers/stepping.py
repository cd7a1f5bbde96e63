"""A method asked step after step, and derivatives in float64 to compare with."""

from collections.abc import Callable

import numpy as np

from compiled import compiled
from polytape.contract import Method
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial


def run(method: Method, losses: Array, active: Array | None = None, norms: Array = 0.0) -> Array:
    """Weights (N, T) for losses (N, T): each step goes on from the state of the one before.

    norms  lengths of the rows, which are orthogonal; (N, T) or what broadcasts
    """
    losses = np.asarray(losses, "float64")
    active = np.ones(losses.shape, bool) if active is None else active
    rows = np.eye(losses.shape[1]) * np.broadcast_to(norms, losses.shape)[..., None]
    trial = Trial(method, compiled)
    state = trial.start(losses.shape[1:])
    found = []
    for loss, row, mask in zip(losses, rows, active, strict=True):
        weights, state = trial.step(row * mask[:, None], loss * mask, mask, state)
        found.append(weights)
    return np.array(found)


def each(method: Method, losses: Array) -> Array:
    """Weights (N, T) for losses (N, T), each from the initial state."""
    trial = Trial(method, compiled)
    losses = np.asarray(losses, "float64")
    rows = np.zeros((*losses.shape, 1))
    return trial.step(rows, losses, np.ones(losses.shape, bool), trial.start(losses.shape))[0]


def slopes(function: Callable[[Array], complex], losses: Array) -> Array:
    """Derivative of an analytic function at each of the losses (N, T), by a complex step."""
    losses = np.asarray(losses, "float64")
    found = np.empty_like(losses)
    for n, t in np.ndindex(losses.shape):
        step = 1e-20 * max(abs(losses[n, t]), 1e-200)
        shifted = losses[n].astype(complex)
        shifted[t] += 1j * step
        found[n, t] = np.imag(function(shifted)) / step
    return found


class Adam:
    """Algorithm 1 of Kingma & Ba in float64, epsilon zero, one count of steps for each number."""

    def __init__(self, count: int, rate: float) -> None:
        self.rate = rate
        self.m, self.v, self.t = np.zeros((3, count))

    def step(self, gradient: Array, active: Array) -> Array:
        new = 0.9 * self.m + 0.1 * gradient, 0.999 * self.v + 0.001 * gradient**2, self.t + 1
        self.m, self.v, self.t = (
            np.where(active, value, old)
            for value, old in zip(new, (self.m, self.v, self.t), strict=True)
        )
        t = np.maximum(self.t, 1)
        root = np.sqrt(self.v / (1 - 0.999**t))
        ratio = self.m / (1 - 0.9**t) / np.where(root > 0, root, 1)
        return np.where(active, -self.rate * ratio, 0.0)
