"""Methods that remember rows, in float64 NumPy: one class each, asked step by step."""

import numpy as np

Array = np.ndarray


def on_simplex(vector: Array) -> Array:
    """The nearest point of the probability simplex, by bisection for the level to cut at."""
    low, high = vector.min() - 1, vector.max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(vector - level, 0).sum() > 1 else (low, level)
    return np.maximum(vector - high, 0)


class Loop:
    """step(J (T, N), losses (T,), active (T,)) -> update (N,)."""

    def __init__(self, count: int) -> None:
        self.t, self.count = 0, count
        self.w = np.full(count, 1 / count)

    def step(self, J: Array, losses: Array, active: Array) -> Array:
        if not self.t:
            self.kept, self.part = np.zeros_like(J), np.zeros(self.count)
        self.t += 1
        a = np.flatnonzero(active)
        return self.update(J, losses, a)

    def average(self, J: Array, a: Array, decay: float) -> Array:
        """Moving averages without bias, of the rows `a`."""
        self.kept[a] = decay * self.kept[a] + (1 - decay) * J[a]
        self.part[a] = decay * self.part[a] + 1 - decay
        return self.kept[a] / self.part[a, None]


class MoCo(Loop):
    def update(self, J: Array, losses: Array, a: Array) -> Array:
        Y = self.average(J, a, 1 - 0.5 / self.t**0.5)
        mass = self.w[a].sum()
        w = self.w[a] / mass
        w = on_simplex(w - 0.1 / self.t**0.5 * (Y @ Y.T @ w))
        self.w[a] = mass * w
        return len(a) * Y.T @ w


class DBMTL(Loop):
    decay, power, log = 0.9, 0.0, True

    def update(self, J: Array, losses: Array, a: Array) -> Array:
        rows = J / np.abs(losses)[:, None] if self.log else J
        H = self.average(rows, a, self.decay / self.t**self.power)
        lengths = np.linalg.norm(H, axis=1)
        balanced = H * (lengths.max() / lengths)[:, None]
        np.testing.assert_allclose(np.linalg.norm(balanced, axis=1), lengths.max())
        return balanced.sum(0)


class VanishingDBMTL(DBMTL):
    decay, power, log = 0.5, 0.7, False


class ExcessMTL(Loop):
    rate = 0.5

    def update(self, J: Array, losses: Array, a: Array) -> Array:
        if self.t == 1:
            self.first = np.zeros(self.count)
        self.kept[a] += J[a] ** 2
        root = np.sqrt(self.kept[a])
        excess = (J[a] ** 2 / np.where(root > 0, root, 1)).sum(1)
        self.first[a] = np.where(self.first[a] == 0, excess, self.first[a])
        self.w[a] *= np.exp(self.rate * excess / self.first[a])
        return len(a) * J[a].T @ (self.w[a] / self.w[a].sum())


class LRAnnealing(Loop):
    def update(self, J: Array, losses: Array, a: Array) -> Array:
        if self.t == 1:
            self.w = np.ones(self.count)
        for i in a if 0 in a else ():
            if i:
                self.w[i] = 0.9 * self.w[i] + 0.1 * np.abs(J[0]).max() / np.abs(J[i]).mean()
        return J[a].T @ self.w[a]


class MeanAnnealing(Loop):
    """Relative to the last objective, mean by mean."""

    def update(self, J: Array, losses: Array, a: Array) -> Array:
        if self.t == 1:
            self.w = np.ones(self.count)
        for i in a if self.count - 1 in a else ():
            if i < self.count - 1:
                self.w[i] = 0.4 * self.w[i] + 0.6 * np.abs(J[-1]).mean() / np.abs(J[i]).mean()
        return J[a].T @ self.w[a]


class MConFIG(Loop):
    beta = 0.8

    def update(self, J: Array, losses: Array, a: Array) -> Array:
        """The gradient of which Adam's first moment is the published direction."""
        if self.t == 1:
            self.M = np.zeros(J.shape[1])
        for i in a if self.t == 1 else a[a == (self.t - 1) % self.count]:
            self.kept[i] = self.beta * self.kept[i] + (1 - self.beta) * J[i]
            self.part[i] = self.beta * self.part[i] + 1 - self.beta
        a = a[self.part[a] > 0]
        m = self.kept[a] / self.part[a, None]
        x = np.linalg.pinv(m / np.linalg.norm(m, axis=1)[:, None]) @ np.ones(len(a))
        self.v = (m @ x).sum() * x / (x @ x)
        before, self.M = self.M, (1 - self.beta**self.t) * self.v
        return (self.M - self.beta * before) / (1 - self.beta)
