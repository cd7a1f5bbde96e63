"""Replicas: the processes of a `torch.distributed` group, each with its own part of the data."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed, nn

from polytape.engines.contract import Tensor


def replica_count() -> int:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def replica_index() -> Tensor:
    rank = distributed.get_rank() if replica_count() > 1 else 0
    return torch.tensor(rank, dtype=torch.int32)


def all_reduce(tensors: Sequence[Tensor]) -> list[Tensor]:
    if replica_count() == 1:
        return list(tensors)
    found = [tensor.detach().clone() for tensor in tensors]
    for tensor in found:
        distributed.all_reduce(tensor)
    return found


def refusal(model: Any) -> str | None:
    for module in _modules(model):
        if isinstance(module, nn.DataParallel):
            return "torch.nn.DataParallel spreads a network over devices within one process."
    return None


def _modules(model: Any) -> Iterator[torch.nn.Module]:
    """A module and those inside it; Keras keeps the layers of a model in a list of its own."""
    if isinstance(model, torch.nn.Module):
        yield from model.modules()
        for layer in getattr(model, "layers", ()):
            yield from _modules(layer)
