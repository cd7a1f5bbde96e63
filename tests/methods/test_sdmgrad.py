"""SDMGrad against a plain loop, and what its parts do."""

import keras
import numpy as np
from keras import ops

from compiled import compiled
from linear_halves import evidence, halves
from polytape.contract import evaluate
from polytape.linalg.simplex import project
from polytape.methods.sdmgrad import SDMGrad
from polytape.testing.matrices import Array


def nearest(vector: Array) -> Array:
    return np.asarray(project(ops.array(vector.astype("float32")), ops.ones(len(vector), "bool")))


def by_loop(cross: Array, share: Array, wanted: Array, method: SDMGrad) -> Array:
    pull = method.regularization * wanted
    matrix = cross / np.sqrt(np.maximum(np.diag(cross), 0)).mean() ** 2
    speed = np.zeros(len(share))
    for _ in range(method.steps):
        speed = matrix @ (share + pull) + method.momentum * speed
        share = nearest(share - method.rate * speed)
    return share


def test_matches_a_plain_loop_over_several_batches() -> None:
    method = SDMGrad(0.4, (1.0, 2.0, 1.0), rate=0.3, momentum=0.5, steps=7, scale="paper")
    step = compiled(lambda cross, active, state: evaluate(method, evidence(cross, active), state))
    wanted = np.array([0.25, 0.5, 0.25])
    state, share = (
        keras.tree.map_structure(ops.array, method.init(("a", "b", "c"))),
        np.full(3, 1 / 3),
    )
    for count in range(4):
        one, two = halves(count, 3)
        cross = one @ two.T
        weights, state = step(ops.array(np.float32(cross)), ops.ones(3, "bool"), state)
        share = by_loop(cross, share, wanted, method)
        np.testing.assert_allclose(np.asarray(state["share"]), share, atol=1e-4)
        np.testing.assert_allclose(np.asarray(weights), (share + 0.4 * wanted) / 1.4, atol=1e-4)


def test_noise_that_drowns_every_gradient_leaves_the_weights_as_they_are() -> None:
    cross = ops.array(np.array([[-1.0, 0.3], [0.2, -2.0]], "float32"))
    state = {"share": ops.array(np.array([0.3, 0.7], "float32"))}
    _, after = SDMGrad().weigh(evidence(cross, ops.ones(2, "bool")), state)
    np.testing.assert_allclose(np.asarray(after["share"]), [0.3, 0.7], rtol=1e-6)


def test_small_steps_go_to_the_min_norm_point() -> None:
    method = SDMGrad(0.0, rate=0.1, steps=300)
    cross = ops.array(np.diag([1.0, 4.0]).astype("float32"))
    start = {"share": ops.array([0.5, 0.5])}
    _, after = method.weigh(evidence(cross, ops.ones(2, "bool")), start)
    np.testing.assert_allclose(np.asarray(after["share"]), [0.8, 0.2], atol=1e-3)
