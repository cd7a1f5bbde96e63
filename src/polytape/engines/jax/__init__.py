"""JAX: inside `jit`, and eager."""

from polytape.engines.jax.gradients import (
    add_where,
    dense,
    finite,
    in_range,
    rows,
    stack,
    zeros_like,
)
from polytape.engines.jax.recording import derivative, parameters, record, tape, trains
from polytape.engines.jax.updates import (
    apply,
    aside,
    assign,
    choose,
    compiled,
    island,
    keep,
    prepare,
    recover,
    replicas,
    survey,
    take_back,
    train_step,
)

FUSES = True

__all__ = [
    "FUSES",
    "add_where",
    "apply",
    "aside",
    "assign",
    "choose",
    "compiled",
    "dense",
    "derivative",
    "finite",
    "in_range",
    "island",
    "keep",
    "parameters",
    "prepare",
    "record",
    "recover",
    "replicas",
    "rows",
    "stack",
    "survey",
    "take_back",
    "tape",
    "train_step",
    "trains",
    "zeros_like",
]
