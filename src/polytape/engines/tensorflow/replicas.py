"""Replicas: `tf.distribute` strategies, in whose replica context a step runs."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from polytape.engines.contract import Tensor


def replica_count() -> int:
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_index() -> Tensor:
    context = tf.distribute.get_replica_context()
    return tf.convert_to_tensor(context.replica_id_in_sync_group, tf.int32)


def all_reduce(tensors: Sequence[Tensor]) -> list[Tensor]:
    context = tf.distribute.get_replica_context()
    if not tensors or context is None or context.num_replicas_in_sync == 1:
        return list(tensors)
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def refusal(model: Any) -> str | None:
    del model
    return None
