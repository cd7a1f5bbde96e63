"""NTK weights: the formula, its memory, and what is left out."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled
from polytape.contract import Evidence, Method, PerObjective, Seed, evaluate
from polytape.testing.matrices import Array

NAMES = ("a", "b", "c")


def run(method: Method, traces: Array, active: Array) -> Array:
    """Weights (N, T) for traces and activity (N, T), in as many steps."""
    losses, step = ops.ones(3), ops.zeros((), "int32")
    answer = compiled(
        lambda t, on, s: evaluate(
            method,
            Evidence(
                losses, None, on, NAMES, step, Seed(0), readings={"traces": PerObjective(t, True)}
            ),
            s,
        )
    )
    state = keras.tree.map_structure(ops.convert_to_tensor, method.init(NAMES))
    found = []
    for trace, on in zip(np.float32(traces * active), active, strict=True):
        weights, state = answer(ops.array(trace), ops.array(on), state)
        found.append(ops.convert_to_numpy(weights))
    return np.array(found)


def by_loop(traces: Array, active: Array, decay: float) -> Array:
    known, found = {}, []
    for trace, on in zip(traces, active, strict=True):
        for t in range(3):
            if on[t] and trace[t] > 0:
                known[t] = decay * known.get(t, trace[t]) + (1 - decay) * trace[t]
        present = {t: known[t] for t in known if on[t]}
        mean = np.mean(list(present.values())) if present else 0
        found.append([mean / present[t] if t in present else float(on[t]) for t in range(3)])
    return np.array(found)


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_weights_are_those_of_a_loop(decay: float) -> None:
    """With steps in between (all zero), unlabelled (one zero) and inactive objectives."""
    rng = np.random.default_rng(0)
    traces = rng.uniform(0.1, 9, (8, 3)) * np.array([1, 1e-6, 1e6])
    active = np.ones((8, 3), bool)
    traces[[0, 3, 4]] = 0
    traces[1, 2] = traces[5, 0] = 0
    active[2, 1] = active[4, 0] = active[6, 2] = False
    found = run(pt.NTK(decay=decay), traces, active)
    np.testing.assert_allclose(found, by_loop(traces, active, decay), rtol=1e-5)
    summed = run(pt.NTK(decay=decay, target="sum"), traces[1:2], active[:1])
    np.testing.assert_allclose(summed[0, :2], 2 * by_loop(traces[1:2], active[:1], decay)[0, :2])


def test_weighted_traces_are_equal_and_add_up_to_their_mean() -> None:
    traces = np.array([0.25, 3.0, 40.0])
    weights, _ = pt.weigh(pt.NTK(), losses=np.ones(3), traces=traces)
    np.testing.assert_allclose(ops.convert_to_numpy(weights) * traces, traces.mean(), rtol=1e-6)


def test_extreme_traces_give_finite_weights() -> None:
    traces = np.array([[1e-44, 1e-37, 1e37], [1e-38, 1e38, 1e-30], [0, 0, 0]])
    assert np.isfinite(run(pt.NTK(), traces, np.ones((3, 3), bool))).all()


def test_a_stage_before_it_changes_the_traces() -> None:
    chain = pt.Chain(pt.Reweight({"a": 4.0}), pt.NTK())
    weights, _ = pt.weigh(chain, losses=[1.0, 1.0], traces=[1.0, 3.0], names=("a", "b"))
    np.testing.assert_allclose(ops.convert_to_numpy(weights), 3.5 * np.array([1, 1 / 3]), rtol=1e-6)


@pytest.mark.engine
def test_it_says_what_it_misses() -> None:
    w = keras.Variable([1.0, 2.0])
    grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": w[0] * w[1]}, [w])
    combiner = pt.Combiner("ntk")
    with pytest.raises(ValueError, match=r"call combiner\(grads, traces=\.\.\.\)"):
        combiner(grads)
    with pytest.raises(ValueError, match=r"NTK compares the gradients of single samples: give"):
        pt.weigh("ntk", losses=[1.0, 1.0])
    (update,) = combiner(grads, traces=ops.array([1.0, 3.0]))
    right = 2 * np.array([2.0, 0.0]) + 2 / 3 * np.array([2.0, 1.0])
    np.testing.assert_allclose(ops.convert_to_numpy(update), right, rtol=1e-6)
    (update,) = combiner(grads, traces=ops.zeros(2))
    np.testing.assert_allclose(ops.convert_to_numpy(update), right, rtol=1e-6)


def test_a_wrapper_asks_it_without_a_gramian() -> None:
    weights, _ = pt.weigh(pt.Every(pt.NTK(), 2), losses=[1.0, 1.0], traces=[1.0, 9.0])
    np.testing.assert_allclose(ops.convert_to_numpy(weights), [5.0, 5 / 9], rtol=1e-6)
