"""PyTorch: eager, and under `torch.compile`."""

from polytape.engines.torch.gradients import (
    add_where,
    dense,
    finite,
    has_value,
    in_range,
    rows,
    stack,
    zeros_like,
)
from polytape.engines.torch.operations import trace
from polytape.engines.torch.recording import derivative, parameters, record, tape, trains
from polytape.engines.torch.replicas import all_reduce, refusal, replica_count, replica_index
from polytape.engines.torch.updates import (
    apply,
    assign,
    choose,
    compiled,
    compiled_step,
    prepare,
    readable,
    restore_if_nonfinite,
    restore_snapshot,
    snapshot,
    survey,
    train_step,
    without_side_effects,
)

CHOICES_PAY = True
KERAS_ADDS = False
FUSES = False

__all__ = [
    "CHOICES_PAY",
    "FUSES",
    "KERAS_ADDS",
    "add_where",
    "all_reduce",
    "apply",
    "assign",
    "choose",
    "compiled",
    "compiled_step",
    "dense",
    "derivative",
    "finite",
    "has_value",
    "in_range",
    "parameters",
    "prepare",
    "readable",
    "record",
    "refusal",
    "replica_count",
    "replica_index",
    "restore_if_nonfinite",
    "restore_snapshot",
    "rows",
    "snapshot",
    "stack",
    "survey",
    "tape",
    "trace",
    "train_step",
    "trains",
    "without_side_effects",
    "zeros_like",
]
