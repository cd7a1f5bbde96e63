"""What is no longer used is let go of: models, plans and what they compiled."""

import gc
import weakref
from typing import Any

import keras
import pytest

import polytape as pt
from small import LOSSES, data, model

pytestmark = pytest.mark.engine
X, Y = data(8)


def trained(found: keras.Model) -> list[weakref.ref[Any]]:
    """References to all that one compile and one step have made."""
    found.compile("sgd", LOSSES, combine=pt.Smoothed(pt.UPGrad()))
    found.train_on_batch(X, Y)
    plan = found.plan
    parts = [found.optimizer, plan, *plan.courses]
    return [weakref.ref(part) for part in [*parts, *(c.settlement for c in plan.courses)]]


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
