"""Methods that see or remember rows, against float64 loops: in a loop of one's own and in `fit`."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
import remembering
from compiled import compiled
from linear import objective, random_rows, variables_of
from polytape.testing import Trial
from small import LOSSES, arrays, data, model

pytestmark = pytest.mark.engine
Array = np.ndarray
NAMES = ("a", "b", "c")
METHODS = {
    "MoCo": pt.MoCo(),
    "DBMTL": pt.DBMTL(),
    "VanishingDBMTL": pt.DBMTL(decay=0.5, power=0.7, log=False),
    "ExcessMTL": pt.ExcessMTL(rate=0.5),
    "LRAnnealing": pt.LRAnnealing(),
    "MeanAnnealing": pt.LRAnnealing("c", statistic="mean", decay=0.4),
    "MConFIG": pt.MConFIG(beta=0.8),
}


def loop(name: str) -> remembering.Loop:
    return getattr(remembering, name)(3)


def matrix(rows: list[list[Array | None]], variables: range) -> Array:
    """Rows [v][t] of some variables, side by side; zero where there is no path."""
    found = []
    for v in variables:
        shape = next(row.shape for row in rows[v] if row is not None)
        found.append([np.zeros(shape).ravel() if r is None else r.ravel() for r in rows[v]])
    return np.concatenate(found, axis=1).astype("float64")


def close(found: Array, right: Array) -> None:
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=2e-5 * np.abs(right).max())


def steps(count: int) -> list[dict[str, list[Array | None]]]:
    """The bias is not reached by b, the decoder by c alone; two objectives miss a label once."""
    found = [random_rows(seed) for seed in range(count)]
    for rows in found:
        rows["encoder/bias"][1] = None
        rows["decoder/kernel"][0] = rows["decoder/kernel"][1] = None
    for step, t in ((2, 1), (4, 0)):
        found[step]["encoder/kernel"][t] = np.full((2, 3), np.nan)
    return found


@pytest.mark.parametrize("weight", [1.0, 0.25], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", METHODS)
def test_in_a_loop_of_ones_own(name: str, weight: float) -> None:
    method = METHODS[name]
    if weight != 1:
        method = pt.Chain(pt.Reweight({"b": weight}), method)
    combiner, right = pt.Combiner(method), loop(name)
    joint = name == "MConFIG"
    for rows in steps(6):
        variables = variables_of(rows)
        update = combiner(pt.gradients(objective(rows, variables), variables))
        found = [ops.convert_to_numpy(part).ravel() for part in update]
        J = matrix(list(rows.values()), range(3 if joint else 2))
        J[1] *= weight
        active = np.isfinite(J).all(axis=1)
        losses = [sum(np.sum(c[t]) for c in rows.values() if c[t] is not None) for t in range(3)]
        with np.errstate(invalid="ignore"):
            wanted = right.step(J, np.array(losses) * [1, weight, 1], active)
        close(np.concatenate(found[: 3 if joint else 2]), wanted)
        if not joint:
            np.testing.assert_allclose(found[2], rows["decoder/kernel"][2], rtol=1e-6)


class Reference:
    """The same training in NumPy, gradients from `pt.gradients`."""

    def __init__(self, name: str) -> None:
        self.loop, self.network = loop(name), model()
        self.variables = self.network.trainable_variables
        self.joint = name == "MConFIG"

    def gradients(self, x: Array, y: dict[str, Array]) -> pt.Gradients:
        def losses() -> dict[str, object]:
            out = self.network(x)
            return {n: keras.losses.get(LOSSES[n])(y[n], out[n]) for n in NAMES}

        def means() -> dict[str, object]:
            return {n: ops.mean(loss) for n, loss in losses().items()}

        return pt.gradients(means, self.variables)

    def updates(self, x: Array, y: dict[str, Array]) -> list[Array]:
        grads = self.gradients(x, y)
        table = [[grads[n][v] for n in NAMES] for v in range(len(self.variables))]
        rows = [[None if r is None else ops.convert_to_numpy(r) for r in row] for row in table]
        chosen = range(len(rows)) if self.joint else grads.connectivity.shared
        losses = np.array([float(grads.losses[n]) for n in NAMES])
        update = self.loop.step(matrix(rows, chosen), losses, np.ones(3, bool))
        found = [next(r for r in row if r is not None).astype("float64") for row in rows]
        for v in chosen:
            part, update = np.split(update, [found[v].size])
            found[v] = part.reshape(found[v].shape)
        return found


@pytest.mark.parametrize("name", METHODS)
def test_in_fit(name: str) -> None:
    x, y = data(64)
    reference, net = Reference(name), model()
    adaptive = name == "MConFIG"
    optimizer = keras.optimizers.Adam(0.02, 0.8) if adaptive else keras.optimizers.SGD(0.02)
    net.compile(optimizer, LOSSES, combine=METHODS[name])
    before = arrays(net.trainable_variables)
    net.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    values = [value.astype("float64") for value in before]
    second = [np.zeros_like(value) for value in values]
    for step in range(4):
        batch = slice(16 * step, 16 * step + 16)
        update = reference.updates(x[batch], {n: y[n][batch] for n in NAMES})
        if adaptive:  # Algorithm 1: the direction over the root of the second moment
            first = reference.loop.v
            for v, gradient in enumerate(update):
                second[v] = 0.999 * second[v] + 0.001 * gradient**2
                part, first = np.split(first, [gradient.size])
                root = np.sqrt(second[v] / (1 - 0.999 ** (step + 1))) + 1e-7
                update[v] = part.reshape(gradient.shape) / root
        for value, variable, part in zip(values, reference.variables, update, strict=True):
            value -= 0.02 * part
            variable.assign(value)
    for found, right, start in zip(arrays(net.trainable_variables), values, before, strict=True):
        close(found - start, right - start)


def test_every_row_of_dbmtl_ends_as_long_as_the_longest() -> None:
    rng, trial = np.random.default_rng(1), Trial(pt.DBMTL(), compiled)
    state, active = trial.start((4,), 6), np.ones(4, bool)
    for _ in range(5):
        rows = rng.normal(size=(4, 6)) * np.array([1e-3, 1.0, 30.0, 1e4])[:, None]
        weights, averages, _, state = trial.answer(rows, np.ones(4), active, state)
        lengths = np.linalg.norm(averages, axis=1)
        np.testing.assert_allclose(weights * lengths, lengths.max(), rtol=1e-5)


def test_trackers_of_moco_come_near_the_gradients() -> None:
    rng, trial = np.random.default_rng(2), Trial(pt.MoCo(beta=0.05), compiled)
    true, active = rng.normal(size=(3, 200)), np.ones(3, bool)
    state = trial.start((3,), 200)
    for _ in range(150):
        noisy = true + rng.normal(size=true.shape)
        _, trackers, _, state = trial.answer(noisy, np.ones(3), active, state)
    share = np.mean((trackers - true) ** 2)  # of the variance, one, of a single gradient
    np.testing.assert_allclose(share, 0.05 / 1.95, rtol=0.2)
