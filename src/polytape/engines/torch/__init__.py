"""PyTorch: eager, and under `torch.compile`."""

from polytape.engines.torch.gradients import (
    add_where,
    dense,
    finite,
    in_range,
    rows,
    stack,
    zeros_like,
)
from polytape.engines.torch.recording import derivative, parameters, record, tape, trains
from polytape.engines.torch.updates import (
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

FUSES = False

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
