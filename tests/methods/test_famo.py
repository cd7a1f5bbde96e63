"""FAMO against a plain loop in float64, reviews included."""

import numpy as np
from keras import ops

from compiled import compiled
from polytape.methods.famo import FAMO
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial
from stepping import Adam, each

IDEAL = np.array([-1.0, 0.0, 0.5])


def tensors(*arrays: Array) -> list:
    return [ops.convert_to_tensor(a if a.dtype == bool else np.float32(a)) for a in arrays]


def run(method: FAMO, before: Array, after: Array, active: Array) -> Array:
    trial, review = Trial(method, compiled), compiled(method.review)
    state = trial.start(before.shape[1:])
    found = []
    for one, two, mask in zip(before, after, active, strict=True):
        weights, state = trial.step(np.zeros((*one.shape, 1)), one * mask, mask, state)
        state = review(*tensors(one * mask, two * mask, mask), state)
        found.append(weights)
    return np.array(found)


def softmax(logits: Array, mask: Array) -> Array:
    power = mask * np.exp(logits)
    return power / power.sum()


def test_follows_a_plain_loop_with_labels_missing() -> None:
    rng = np.random.default_rng(0)
    before = IDEAL + rng.lognormal(size=(30, 3)) * np.array([1e-1, 1.0, 1e2])
    after = IDEAL + (before - IDEAL) * rng.uniform(0.6, 1.1, size=before.shape)
    active = rng.uniform(size=before.shape) < 0.75
    active[:, 1] = True
    s, adam, wanted = np.zeros(3), Adam(3, 0.1), []
    for one, two, mask in zip(before, after, active, strict=True):
        share = softmax(s, mask)
        part = share / (one - IDEAL)
        wanted.append(mask.sum() * part / part.sum())
        fall = np.log(one - IDEAL) - np.log(two - IDEAL)
        jacobian = np.diag(share) - np.outer(share, share)
        s = s + adam.step(jacobian @ fall + 0.05 * s, mask)
    method = FAMO(rate=0.1, decay=0.05, ideal=tuple(IDEAL))
    np.testing.assert_allclose(run(method, before, after, active), wanted, rtol=2e-3)


def test_what_falls_less_weighs_more() -> None:
    trial = Trial(FAMO(rate=0.5))
    active, losses = np.ones(3, bool), np.ones(3)
    state = trial.start((3,))
    state = trial.method.review(*tensors(losses, np.array([0.9, 0.99, 0.5]), active), state)
    # The first step of Adam is the sign: only the last fell faster than the average.
    np.testing.assert_allclose(ops.convert_to_numpy(state.value), [0.5, 0.5, -0.5], rtol=1e-6)
    weights, _ = trial.step(np.zeros((3, 1)), losses, active, state)
    assert weights[0] == weights[1] > 1 > weights[2]


def test_losses_without_a_logarithm_are_left_out_of_the_review() -> None:
    trial = Trial(FAMO(decay=0.0))
    state = trial.start((4,))
    before, after = np.array([0.0, 1.0, -1.0, 1.0]), np.array([1.0, 0.0, -2.0, 0.5])
    state = trial.method.review(*tensors(before, after, np.ones(4, bool)), state)
    assert (ops.convert_to_numpy(state.value) == 0).all()
    assert (ops.convert_to_numpy(state.moments.seen) == [0, 0, 0, 1]).all()


def test_a_negative_loss_counts_by_its_size_and_zero_weighs_zero() -> None:
    found = each(FAMO(scale="paper"), [[-1.0, 4.0, 0.0], [1e-37, 1e37, 1.0], [0.0, 0.0, 0.0]])
    wanted = [[0.8, 0.2, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]  # where all are zero, all are equal
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)
