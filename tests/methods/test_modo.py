"""MoDo against a plain loop."""

import keras
import numpy as np
from keras import ops

from compiled import compiled
from linear_halves import evidence, halves
from polytape.contract import evaluate
from polytape.linalg.simplex import project
from polytape.methods.modo import MoDo
from polytape.testing.matrices import Array


def nearest(vector: Array) -> Array:
    return np.asarray(project(ops.array(vector.astype("float32")), ops.ones(len(vector), "bool")))


def test_matches_a_plain_loop_with_an_objective_away_for_a_step() -> None:
    method = MoDo(gamma=0.3, rho=0.2, scale="paper")
    step = compiled(lambda cross, active, state: evaluate(method, evidence(cross, active), state))
    state, share = (
        keras.tree.map_structure(ops.array, method.init(("a", "b", "c"))),
        np.full(3, 1 / 3),
    )
    for count in range(5):
        one, two = halves(count, 3)
        active = np.array([True, count != 2, True])
        cross = one @ two.T * active[:, None] * active
        weights, state = step(ops.array(np.float32(cross)), ops.array(active), state)
        held = share[active].sum()
        part = share[active] / held
        pull = cross[active][:, active] @ part + 0.2 * part
        right = np.zeros(3)
        right[active] = nearest(part - 0.3 * pull)
        share = np.where(active, held * right, share)
        np.testing.assert_allclose(np.asarray(weights), right, atol=1e-5)
        np.testing.assert_allclose(np.asarray(state["share"]), share, atol=1e-5)
