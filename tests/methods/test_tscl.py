"""TSCL against its formula, with the losses of the step before as every door hands them over."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from histories import Array, wandering
from small import LOSSES, arrays, data, model

NAMES = ("a", "b", "c")


def by_hand(method: pt.TSCL, losses: Array, active: Array) -> Array:
    progress, last, weights = np.zeros(losses.shape[1]), np.full(losses.shape[1], np.nan), []
    for now, on in zip(losses, active, strict=True):
        change = np.where(on & ~np.isnan(last), last - now, 0.0)
        seen = on & ~np.isnan(last)
        moved = method.rate * change + (1 - method.rate) * progress
        progress, last = np.where(seen, moved, progress), np.where(on, now, last)
        power = on * np.exp(np.abs(progress) / method.temperature)
        weights.append(on.sum() * power / power.sum())
    return np.array(weights)


def test_matches_its_formula() -> None:
    losses, active = wandering(12, 3)
    losses = losses / losses[0]
    method = pt.TSCL(rate=0.3, temperature=0.3)
    state, previous, found = None, np.full(3, np.nan, "float32"), []
    for now, on in zip(np.float32(losses), active, strict=True):
        weights, state = pt.weigh(method, losses=now, active=on, state=state, previous=previous)
        found.append(ops.convert_to_numpy(weights))
        previous = np.where(on, now, previous)
    np.testing.assert_allclose(found, by_hand(method, losses, active), rtol=1e-4)
    assert np.ptp(found[-1]) > 0.05


def test_the_first_step_is_equal_without_the_losses_before() -> None:
    weights, _ = pt.weigh("tscl", losses=[1.0, 5.0])
    np.testing.assert_array_equal(ops.convert_to_numpy(weights), 1.0)


@pytest.mark.engine
def test_fit_and_loops_remember_the_losses_of_the_step_before() -> None:
    """The weights of a loop's steps are those of the formula, and a model's updates the loop's."""
    method = pt.TSCL(rate=0.5, temperature=0.05)
    w = keras.Variable([1.0, -2.0])
    combiner, seen, updates = pt.Combiner(method), [], []

    def losses() -> dict[str, Any]:
        return {"a": w[0] ** 2, "b": (w[0] - 3.0) ** 2, "c": 0.1 * (w[0] * w[1]) ** 2}

    for _ in range(4):
        grads = pt.gradients(losses, [w])
        seen.append([float(loss) for loss in grads.losses.values()])
        (update,) = combiner(grads)
        rows = np.array([ops.convert_to_numpy(grads[name][0]) for name in NAMES])
        updates.append((rows, ops.convert_to_numpy(update)))
        w.assign(w - 0.1 * update)
    weights = by_hand(method, np.array(seen), np.ones((4, 3), bool))
    for (rows, update), row in zip(updates, weights, strict=True):
        np.testing.assert_allclose(update, row @ rows, rtol=2e-4, atol=1e-5)
    assert np.ptp(weights[-1]) > 0.1


@pytest.mark.engine
def test_training_goes_on_from_a_file(tmp_path: Any) -> None:
    x, y = data(8)
    first = model()
    first.compile("sgd", LOSSES, combine=pt.TSCL())
    first.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    first.save(tmp_path / "m.keras")
    second = keras.models.load_model(tmp_path / "m.keras")
    for each in (first, second):
        each.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(arrays(first.weights), arrays(second.weights), strict=True):
        np.testing.assert_array_equal(one, other)
    previous = first.plan.aggregator.state.read()["previous"]
    assert ops.convert_to_numpy(previous["seen"]).all()


@pytest.mark.engine
def test_evidence_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"'previus', which does not exist. Did you mean 'previous'"
    ):
        pt.weigh("tscl", losses=[1.0, 2.0], previus=[1.0, 2.0])
    w = keras.Variable(1.0)
    grads, combiner = pt.gradients(lambda: {"a": w * 1.0}, [w]), pt.Combiner("sum")
    with pytest.raises(TypeError, match=r"combiner\(grads, previous=...\): Sum does not read such"):
        combiner(grads, previous=[1.0])
