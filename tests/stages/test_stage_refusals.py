"""What stages refuse, and how they say it."""

import json

import pytest
from keras.optimizers import schedules

import polytape as pt

REFUSED = {
    "empty chain": (lambda: pt.Chain(), ValueError, r"An empty Chain: give it at least one stage"),
    "not a method": (
        lambda: pt.Chain(pt.Normalize(), "pcgrad"),
        TypeError,
        r"A Chain is made of methods.*Received: 'pcgrad' of type str",
    ),
    "rows before the end": (
        lambda: pt.Chain(pt.GradDrop(), pt.Mean()),
        ValueError,
        r"GradDrop works coordinate by coordinate.*Put it last in the Chain",
    ),
    "two scopes": (
        lambda: pt.Chain(pt.PerVariable(pt.Sum()), pt.PerNetwork(pt.Sum())),
        ValueError,
        r"One Chain, two scopes: network, variable",
    ),
    "scope in scope": (
        lambda: pt.PerVariable(pt.Smoothed(pt.PerNetwork(pt.Sum()))),
        ValueError,
        r"PerVariable\(Smoothed\(...\)\): a scope inside a scope",
    ),
    "rows inside a wrapper": (
        lambda: pt.GlobalClip(pt.GradDrop()),
        ValueError,
        r"GlobalClip\(GradDrop\(\)\): GradDrop works coordinate by coordinate.*global_clipnorm",
    ),
    "name inside a wrapper": (
        lambda: pt.Smoothed("mgda"),
        TypeError,
        r"Smoothed acts around a method.*Received: 'mgda' of type str",
    ),
    "class inside a wrapper": (
        lambda: pt.Every(pt.MGDA),
        TypeError,
        r"Every acts around a method, as in pt.Every\(pt.UPGrad\(\)\). Received: <class",
    ),
    "weight not finite": (
        lambda: pt.Reweight({"a": float("nan")}),
        ValueError,
        r"Reweight\(\{'a': ...\}\): a weight must be a finite number.*Received: nan",
    ),
    "weight not a number": (
        lambda: pt.Reweight({"a": "big"}),
        ValueError,
        r"a weight must be a finite number or a LearningRateSchedule. Received: 'big' of type str",
    ),
    "clip at zero": (
        lambda: pt.Clip(0.0),
        ValueError,
        r"Clip\(norm=0.0\): `norm` must be a number in \(0, inf\] in float32. Received: 0.0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        build()


def test_unknown_objective_offers_the_nearest() -> None:
    text = r"'dept', which is not an objective. Did you mean 'depth'\? Objectives: 'depth', 'seg'"
    with pytest.raises(ValueError, match=text):
        pt.weigh(pt.Reweight({"dept": 2.0}), losses=[1.0, 1.0], names=["depth", "seg"])


CONFIGS = [
    pt.Chain(pt.Reweight({"a": 0.5, "b": schedules.CosineDecay(1.0, 10)}), pt.PCGrad()),
    pt.Every(pt.Smoothed(pt.MGDA(), decay=0.5), steps=3),
    pt.PerVariable(pt.GlobalClip(pt.Sum(), 2.0)),
    pt.PerNetwork(pt.Chain(pt.Normalize("loss"), pt.Clip(0.5))),
]


@pytest.mark.parametrize("method", CONFIGS, ids=lambda method: type(method).__name__)
def test_config_round_trip(method: pt.Method) -> None:
    again = type(method).from_config(method.get_config())
    assert again.get_config() == method.get_config()
    assert json.loads(json.dumps(method.get_config())) == method.get_config()
    assert (again.scope, again.needs, again.period) == (method.scope, method.needs, method.period)
