"""What is no longer used is let go of; a model spread where it cannot be right is refused."""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from small import LOSSES, arrays, assert_same, data, model

pytestmark = pytest.mark.engine

BACKEND = keras.backend.backend()
X, Y = data(8)


def trained(found: keras.Model) -> list[weakref.ref[Any]]:
    """References to all that one compile and one step have made."""
    found.compile("sgd", LOSSES, combine=pt.Smoothed(pt.UPGrad()))
    found.train_on_batch(X, Y)
    plan = found.plan
    parts = [found.optimizer, plan, *plan.phases]
    return [weakref.ref(part) for part in [*parts, *(c.aggregator for c in plan.phases)]]


def alive(references: list[weakref.ref[Any]]) -> list[str]:
    gc.collect()
    return [type(found).__name__ for reference in references if (found := reference()) is not None]


def test_compiling_again_lets_go_of_the_plan_before() -> None:
    found = model()
    references = trained(found)
    assert len(alive(references)) == len(references) >= 4
    trained(found)
    assert alive(references) == []


def test_a_model_that_is_deleted_is_let_go_of_with_all_that_it_made() -> None:
    found = model()
    references = [weakref.ref(found), weakref.ref(found.method_state), *trained(found)]
    del found
    keras.backend.clear_session()
    assert alive(references) == []


def weighing(found: pt.Model, method: Any, **options: Any) -> Any:
    """The compiled T x T function that a model weighs with after one step."""
    found.compile("sgd", LOSSES, combine=method, run_eagerly=True, **options)
    found.train_on_batch(X, Y)
    (function,) = found.plan.aggregator._compiled.values()
    return function


def test_those_who_ask_for_the_same_share_what_is_compiled() -> None:
    """TensorFlow keeps for ever what XLA compiles, 16 MB for UPGrad: one for a search, not 100."""
    found, method = model(), pt.Smoothed(pt.UPGrad(regularization=1e-3))
    first = weighing(found, method, seed=1)
    assert weighing(found, method, seed=1) is first, "compiled again"
    assert weighing(model(), method, seed=2) is first, "another model, another seed"
    assert weighing(model(), pt.Smoothed(pt.UPGrad(regularization=1e-3))) is first, "an equal one"
    assert weighing(model(), pt.Smoothed(pt.UPGrad(regularization=2e-3))) is not first
    assert weighing(model(), pt.Smoothed(pt.DualProj(regularization=1e-3))) is not first
    assert weighing(model(), pt.UPGrad(regularization=1e-3)) is not first
    assert weighing(model(), pt.PerVariable(pt.UPGrad(regularization=1e-3))) is not first
    other = model()
    function = weighing(other, pt.Chain(pt.Reweight({"a": 2.0}), pt.UPGrad()))
    assert weighing(model(), pt.Chain(pt.Reweight({"a": 3.0}), pt.UPGrad())) is not function


def test_what_is_shared_keeps_no_state() -> None:
    """A model beside it, or after it, trains as if it were alone."""
    method = pt.Smoothed(pt.UPGrad())
    alone, other, later = model(), model(), model()
    weighing(alone, method)
    before = arrays(alone.plan.aggregator.state.variables)
    weighing(other, method)
    for _ in range(3):
        other.train_on_batch(-X, Y)
    weighing(later, method)
    for found in (alone, later):
        assert_same(arrays(found.plan.aggregator.state.variables), before)


def test_what_may_change_is_not_shared() -> None:
    """A method that holds more than its fields say, or is made inside a function, is a new one."""

    @dataclasses.dataclass(frozen=True)
    class Local(pt.Method):
        def weigh(self, evidence: Any, state: Any) -> tuple[Any, Any]:
            return keras.ops.ones_like(evidence.losses), state

    assert weighing(model(), Local()) is not weighing(model(), Local())
    schedules = [keras.optimizers.schedules.ExponentialDecay(1.0, 9, rate) for rate in (0.5, 0.5)]
    chains = [pt.Chain(pt.Reweight({"a": each}), pt.UPGrad()) for each in schedules]
    one, other = (weighing(model(), chain) for chain in chains)
    assert one is not other


def refused(doors: list[tuple[str, Callable[[], Any]]], found: str, remedy: str) -> None:
    """Every door names itself, what was found, and what works."""
    for asked_by, door in doors:
        try:
            door()
        except RuntimeError as error:
            text = str(error)
            assert text.startswith(f"{asked_by}: {found}"), text
            assert remedy in text
        else:
            raise AssertionError(asked_by)


@pytest.mark.skipif(BACKEND != "torch", reason="its wrappers are of PyTorch")
def test_a_data_parallel_wrapper_of_pytorch() -> None:
    """Threads of one process that share a network cannot be right, and every door says so."""
    import torch

    wrapper = torch.nn.DataParallel(torch.nn.Linear(4, 1))
    layer = keras.layers.TorchModuleWrapper(wrapper, output_shape=(None, 1))
    inputs = keras.Input((4,))
    inside = pt.Model(inputs, {"a": layer(inputs), "b": keras.layers.Dense(1)(inputs)})
    refused(
        [
            ("pt.Model.wrap", lambda: pt.Model.wrap(wrapper)),
            ("pt.Model(networks={'one': ...})", lambda: pt.Model(networks={"one": wrapper})),
            ("compile()", lambda: inside.compile("sgd", {"a": "mse", "b": "mse"})),
            ("pt.gradients", lambda: pt.gradients(dict, wrapper)),
            ("pt.gradients", lambda: pt.gradients(dict, {"one": wrapper})),
            ("pt.compiled_step", lambda: pt.compiled_step(dict, "sgd", "upgrad", [wrapper])),
        ],
        "DataParallel spreads a network over the devices of one process",
        "torchrun",
    )


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution is of JAX")
def test_distribution_on_jax_is_not_refused() -> None:
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        found = model()
        found.compile("sgd", LOSSES, combine="upgrad")
        assert np.isfinite(found.train_on_batch(*data(8))).all()
    finally:
        keras.distribution.set_distribution(None)
