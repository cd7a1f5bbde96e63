"""What the losses of one replica are in those of the whole batch.

A mean over the labels of a replica counts as much as it has labels, so that an objective's loss is
the mean over all labelled examples of the whole batch, wherever they lie.
"""

import dataclasses
from collections.abc import Sequence

from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.replicated import division, total
from polytape.engines import engine
from polytape.evidence import Kind
from polytape.training.losses.evaluation import Evaluation, Parts


def together(training: bool) -> int:
    """How many replicas evaluate a batch together; 1 if each has batches of its own.

    Where replicas are processes, each may evaluate as many batches as it has.
    """
    return engine().replica_count() if training or engine().KERAS_ADDS else 1


def balanced(
    evaluation: Evaluation, kinds: Sequence[Kind], samples: Tensor, training: bool
) -> Evaluation:
    """The losses of a replica, weighted such that all of them make up those of the whole batch.

    An objective is active if it is on any replica.

    kinds    of evidence that had something recorded
    samples  () int: how many samples this replica has
    """
    replicas = together(training)
    if replicas == 1:
        return evaluation
    number = len(evaluation.values)
    own = [ops.zeros(()) if c is None else ops.cast(c, "float32") for c in evaluation.counts]
    counts, size = engine().stack(own), ops.cast(samples, "float32")
    everyone = ops.ones((number,), "bool")  # what is added up is of the same shape everywhere
    present = everyone if evaluation.present is None else evaluation.present
    flags = ops.cast(present, "float32")
    sums = total(ops.stop_gradient(ops.concatenate([counts, size[None], flags])))
    some = counts != 0
    shares = ops.where(some, replicas * counts / ops.where(some, sums[:number], 1.0), 0.0)
    of_sum = ops.full((), replicas / division())
    factors = [
        of_sum if count is None else ops.stop_gradient(share)
        for count, share in zip(evaluation.counts, ops.unstack(shares, number), strict=True)
    ]
    batches = division() / replicas * sums[number] / ops.maximum(size, 1.0)

    def recorded(found: Parts, factor: Tensor) -> Parts:
        return {
            kind.name: [
                kind.of_replica(part, factor, factor * batches) for part in found[kind.name]
            ]
            for kind in kinds
            if kind.name in found
        }

    calls = [
        call._replace(
            value=_times(call.value, factors[call.objective]),
            parts=recorded(call.parts, factors[call.objective]),
        )
        for call in evaluation.calls
    ]
    return dataclasses.replace(
        evaluation,
        values=list(map(_times, evaluation.values, factors)),
        shares=list(map(_times, evaluation.shares, factors)),
        parts=list(map(recorded, evaluation.parts, factors)),
        calls=calls,
        present=sums[number + 1 :] > 0,
    )


def _times(value: Tensor, factor: Tensor) -> Tensor:
    """A loss times its factor; zero where that is, whatever the loss of nothing came to."""
    product = value * ops.cast(factor, value.dtype)
    return ops.where(factor != 0, product, ops.zeros_like(value))
