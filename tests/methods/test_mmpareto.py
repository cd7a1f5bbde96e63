"""MMPareto against the published procedure on tensors, in float64."""

from functools import cache

import numpy as np
from keras import ops

import polytape as pt
from compiled import compiled
from polytape.contract import Evidence, Seed, evaluate
from polytape.methods.mmpareto import MMPareto
from polytape.testing.matrices import Array

# Six tensors: two encoders and a trunk under all. Objectives: both, sound, sight.
REACH = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]], bool)


@cache
def asker(method: MMPareto) -> object:
    def question(gramian: object, active: object) -> object:
        evidence = Evidence(ops.ones(3), gramian, active, ("both", "sound", "sight"), 0, Seed(0))
        evidence = Evidence(**{**vars(evidence), "reach": REACH})
        return evaluate(method, evidence, ())[0]

    return compiled(question)


def by_tensors(tensors: list[Array], boost: float) -> list[Array]:
    """Two objectives on one encoder: the direction, tensor by tensor."""
    one, two = (np.concatenate([t[k] for t in tensors]) for k in range(2))
    share = 0.5
    if one @ two < 0:
        share = np.clip((two - one) @ two / ((one - two) @ (one - two)), 0, 1)
    found = []
    for t in tensors:
        new = 2 * share * t[0] + 2 * (1 - share) * t[1]
        longer = max(1.0, np.linalg.norm(t[0] + t[1]) / np.linalg.norm(new))
        found.append(boost * longer * new)
    return found


def test_encoders_are_settled_each_and_rescaled_by_tensor() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(6, 3, 4)) * rng.uniform(0.2, 5, size=(1, 3, 1))
        rows = rows * REACH[:, :, None]
        gramian = ops.array((rows @ rows.swapaxes(1, 2)).astype("float32"))
        weights = np.asarray(asker(MMPareto())(gramian, ops.ones(3, "bool")), "float64")
        found = np.einsum("bt,btn->bn", weights, rows)
        for encoder, pair in (([0, 2, 4], [0, 1]), ([1, 3], [0, 2])):
            right = by_tensors([rows[v][pair] for v in encoder], 1.5)
            for v, direction in zip(encoder, right, strict=True):
                np.testing.assert_allclose(found[v], direction, rtol=1e-3, atol=1e-3)
        away = ops.array([True, False, True])
        gramian = gramian * ops.cast(away, "float32")[:, None] * ops.cast(away, "float32")
        alone = np.asarray(asker(MMPareto())(gramian, away))
        np.testing.assert_allclose(alone[:5:2], [[1.5, 0, 0]] * 3, rtol=1e-5)


def test_gradients_that_cancel_out_are_not_blown_up() -> None:
    rows = np.array([[1.0, 2.0], [-3.0, -6.0]])
    weights = np.asarray(pt.weigh(MMPareto(), rows @ rows.T)[0])
    assert np.abs(rows.T @ weights).max() < 1e-3 * np.abs(rows).max()
