"""A compiled step is the eager one, for each way through the backward pass, whatever is done about
what is not finite. Other tests train eagerly on TensorFlow: this one carries over what they say.

Three batches, of which the second has an infinite target.
"""

import itertools
import warnings
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from joined import X, Y, joined, objectives
from small import Array, data, everything, fill

pytestmark = pytest.mark.compiled
LOSSES = {"a": "mse", "b": "huber"}
ON_NONFINITE = ("drop", "isolate", "skip", "raise")
BACKEND = keras.backend.backend()
COMPILERS: dict[str, dict[str, Any]] = {
    "tensorflow": {"function": {"jit_compile": False}, "xla": {"jit_compile": True}},
    "jax": {"jit": {}},
}.get(BACKEND, {})  # PyTorch compiles nothing


@dataclass(frozen=True)
class Way:
    """A model and how it is compiled. joined: of several networks and optimizers, with phases"""

    combine: Any
    settings: dict[str, Any] = field(default_factory=dict)
    features: bool = False
    joined: bool = False


PHASES = [pt.Phase(["image", "sparsity"], steps=2), pt.Phase("label")]
WAYS = {
    "sum": Way("sum"),
    "one pass": Way(pt.DWA(steps=1)),
    "a pass per objective": Way("upgrad"),
    "a pass per objective, rows": Way("trimmedmean"),
    "a pass per objective, per variable": Way(pt.PerVariable(pt.IMTLG())),
    "rows with memory": Way("moco"),
    "by turns": Way("mconfig"),
    "every second step": Way(pt.Every(pt.IMTLG(), 2)),
    "stages and a log": Way(pt.Log(pt.Chain(pt.Normalize(), pt.Clip(0.5), pt.UPGrad()))),
    "samples": Way(pt.NTK(samples=2, steps=2)),
    "halves": Way("modo"),
    "a second look": Way("famo"),
    "measured at outputs": Way("upgrad", {"measure": "outputs"}),
    "measured at features": Way("upgrad", {"measure": "features"}, features=True),
    "several optimizers": Way("upgrad", joined=True),
    "phases": Way("upgrad", {"phases": PHASES}, joined=True),
    "heads are weighed": Way("upgrad", {"private": "weighted"}),
    "heads take part": Way("upgrad", {"private": "joint"}),
}
CASES = list(itertools.product(WAYS, ON_NONFINITE))


def model_of(way: Way, **settings: Any) -> keras.Model:
    settings = {**way.settings, **settings, "combine": way.combine, "seed": 3}
    if way.joined:
        return joined(objectives(), **settings)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, activation="tanh", name="trunk")(inputs)
    hidden = pt.Features()(hidden) if way.features else hidden
    outputs = {name: keras.layers.Dense(1, name=name)(hidden) for name in LOSSES}
    found = fill(pt.Model(inputs, outputs))
    found.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSSES, verbose=0, **settings)
    return found


def trained(name: str, on_nonfinite: str, **settings: Any) -> tuple[list[Array], dict[str, Any]]:
    """Variables, slots and state after three batches, and the logs; or the error's text."""
    way = WAYS[name]
    found = model_of(way, on_nonfinite=on_nonfinite, **settings)
    x, y = (X[:24], {k: v[:24] for k, v in Y.items()}) if way.joined else data(24)
    bad = "image" if way.joined else "a"
    y = {name: y[name].copy() for name in (Y if way.joined else LOSSES)}
    y[bad][8:16] = np.inf
    logs: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            logs = found.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
        except Exception as error:
            logs = {"error": f"{type(error).__name__}: {error}"}
    return everything(found), logs


EAGER: dict[tuple[str, str], tuple[list[Array], dict[str, Any]]] = {}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("name", "on_nonfinite"), CASES)
def test_compiled_is_eager(name: str, on_nonfinite: str, compiler: str) -> None:
    key = name, on_nonfinite
    if key not in EAGER:
        EAGER[key] = trained(*key, run_eagerly=True)
    (eager, eager_logs), (compiled, logs) = EAGER[key], trained(*key, **COMPILERS[compiler])
    assert len(eager) == len(compiled)
    for one, other in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
    assert logs.keys() == eager_logs.keys()
    for log, values in eager_logs.items():
        if log == "error":
            assert (logs[log], on_nonfinite) == (values, "raise")
        else:
            np.testing.assert_allclose(logs[log], values, rtol=1e-3, atol=1e-5, err_msg=log)
