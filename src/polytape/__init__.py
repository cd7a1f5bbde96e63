"""polytape: exact gradients of several losses, their conflicts settled, in one compiled step.

The front door. Every name is loaded when it is first used, and no framework is imported but the
one that Keras has chosen. Methods and stages (`pt.UPGrad`, `pt.Chain`, ...) are found by
discovery: a new file in `methods/` needs no line here.
"""

from importlib import import_module
from typing import Any

from polytape.registration import register_when_keras_is_there

__version__ = "0.1.0"

HOMES = {
    "Combiner": "polytape.combiner",
    "Evidence": "polytape.contract",
    "Features": "polytape.differentiation.features",
    "FromInput": "polytape.training.losses.objective",
    "GradientTape": "polytape.tape",
    "Gradients": "polytape.looping",
    "Method": "polytape.contract",
    "Model": "polytape.training.model",
    "Objective": "polytape.training.losses.objective",
    "Optimizers": "polytape.training.optimizers.optimizers",
    "Phase": "polytape.training.phase",
    "Step": "polytape.training.losses.objective",
    "compiled_step": "polytape.stepping",
    "explain": "polytape.explaining",
    "derivative": "polytape.differentiation.derivatives",
    "gradients": "polytape.looping",
    "weigh": "polytape.weighing",
}
MODULES = ("callbacks", "data")


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if name in MODULES:
        return import_module(f"polytape.{name}")
    if name.startswith("_"):
        raise AttributeError(f"module 'polytape' has no attribute {name!r}")
    catalogue = import_module("polytape.catalogue").catalogue()
    if name in catalogue:
        return catalogue[name]
    hint = import_module("polytape.contract").did_you_mean(name, __dir__(), cutoff=0.6)
    raise AttributeError(
        f"module 'polytape' has no attribute {name!r}.{hint} Methods and stages: "
        f"{', '.join(catalogue)}."
    )


def __dir__() -> list[str]:
    return sorted([*HOMES, *MODULES, *import_module("polytape.catalogue").catalogue()])


register_when_keras_is_there()
