"""TensorFlow: eager, in `tf.function`, with and without XLA."""

from polytape.engines.joint import (
    alone,
    any_process,
    broadcast,
    check_together,
    differing,
    gather,
    process_number,
    processes,
    unwrapped,
)
from polytape.engines.tensorflow.gradients import (
    add_where,
    dense,
    finite,
    has_value,
    in_range,
    rows,
    stack,
    zeros_like,
)
from polytape.engines.tensorflow.operations import trace
from polytape.engines.tensorflow.recording import derivative, parameters, record, trains
from polytape.engines.tensorflow.replicas import all_reduce, replica_count, replica_index
from polytape.engines.tensorflow.strategies import (
    for_all_replicas,
    home,
    of_first_replica,
    on_replicas,
    refusal,
    spread_batches,
)
from polytape.engines.tensorflow.tape import tape
from polytape.engines.tensorflow.updates import (
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
from polytape.engines.whole import (
    flat,
    gathered,
    placed,
    reduce_scatter,
    scatter_refusal,
    unflat,
)

CHOICES_PAY = True
KERAS_ADDS = True
SCATTERS = False
FUSES = False

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
