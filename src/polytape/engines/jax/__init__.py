"""JAX: inside `jit`, and eager."""

from polytape.engines.jax.gradients import (
    add_where,
    dense,
    finite,
    has_value,
    in_range,
    rows,
    stack,
    zeros_like,
)
from polytape.engines.jax.layouts import flat, placed, unflat
from polytape.engines.jax.operations import trace
from polytape.engines.jax.recording import derivative, parameters, record, tape, trains
from polytape.engines.jax.replicas import (
    all_reduce,
    refusal,
    replica_count,
    replica_index,
)
from polytape.engines.jax.scattered import scatter_refusal
from polytape.engines.jax.slices import gathered, reduce_scatter
from polytape.engines.jax.updates import (
    apply,
    assign,
    choose,
    compiled,
    compiled_step,
    either,
    prepare,
    readable,
    restore_if_nonfinite,
    restore_snapshot,
    snapshot,
    survey,
    train_step,
    without_side_effects,
)
from polytape.engines.joint import (
    alone,
    any_process,
    broadcast,
    check_together,
    differing,
    for_all_replicas,
    gather,
    home,
    of_first_replica,
    on_replicas,
    process_number,
    processes,
    spread_batches,
    unwrapped,
)

CHOICES_PAY = False  # XLA runs the chosen way on one core of a CPU
KERAS_ADDS = False
SCATTERS = True
FUSES = True

__all__ = [
    "CHOICES_PAY",
    "FUSES",
    "KERAS_ADDS",
    "SCATTERS",
    "add_where",
    "all_reduce",
    "alone",
    "any_process",
    "apply",
    "assign",
    "broadcast",
    "check_together",
    "choose",
    "compiled",
    "compiled_step",
    "dense",
    "derivative",
    "differing",
    "either",
    "finite",
    "flat",
    "for_all_replicas",
    "gather",
    "gathered",
    "has_value",
    "home",
    "in_range",
    "of_first_replica",
    "on_replicas",
    "parameters",
    "placed",
    "prepare",
    "process_number",
    "processes",
    "readable",
    "record",
    "reduce_scatter",
    "refusal",
    "replica_count",
    "replica_index",
    "restore_if_nonfinite",
    "restore_snapshot",
    "rows",
    "scatter_refusal",
    "snapshot",
    "spread_batches",
    "stack",
    "survey",
    "tape",
    "trace",
    "train_step",
    "trains",
    "unflat",
    "unwrapped",
    "without_side_effects",
    "zeros_like",
]
