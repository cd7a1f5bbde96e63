"""Processes of `torch.distributed` as replicas: each holds all weights and a part of the batch.

All processes call the same collectives in the same order, whatever their data. What might make them
part ways is found out by `check_together`, before any of them waits for what will not come.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import torch
from torch import distributed, nn

from polytape.engines.contract import Tensor, Variable
from polytape.engines.torch.recording import raw

BUCKET = 25 * 2**20  # bytes that are sent at once


def processes() -> int:
    """The size of the default process group, 1 without one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return int(distributed.get_world_size())


def process_number() -> int:
    return int(distributed.get_rank()) if processes() > 1 else 0


_ALONE = [False]  # whether this process is by itself for a while


@contextmanager
def alone() -> Iterator[None]:
    before, _ALONE[0] = _ALONE[0], True
    try:
        yield
    finally:
        _ALONE[0] = before


def replica_count() -> int:
    return 1 if _ALONE[0] else processes()


def replica_index() -> Tensor:
    return torch.tensor(process_number(), dtype=torch.int32, device=keras.ops.zeros(()).device)


@torch.compiler.disable
def all_reduce(tensors: Sequence[Tensor]) -> list[Tensor]:
    given = [tensor.detach() for tensor in tensors]
    if processes() == 1:
        return given
    found: list[Any] = [None] * len(given)
    with under_way():
        for bucket in _buckets(given):
            flat = torch.cat([given[place].reshape(-1) for place in bucket])  # a copy in any case
            with _explained("adding up gradients or losses"):
                _UNDER_WAY[-1].append(distributed.all_reduce(flat, async_op=True))
            pieces = flat.split([given[place].numel() for place in bucket])
            for place, piece in zip(bucket, pieces, strict=True):
                found[place] = piece.view(given[place].shape)  # filled where it lies
    return found


_UNDER_WAY: list[list[Any]] = []  # what is waited for in the end


@contextmanager
def under_way() -> Iterator[None]:
    if _UNDER_WAY:  # it is waited for outside
        yield
        return
    _UNDER_WAY.append([])
    try:
        yield
    finally:
        for work in _UNDER_WAY.pop():
            with _explained("adding up gradients or losses"):
                work.wait()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Places of tensors that travel together: of one dtype and device, up to a size."""
    open_: dict[Any, list[int]] = {}
    sizes: dict[Any, int] = {}
    for place, tensor in enumerate(tensors):
        kind = tensor.dtype, tensor.device
        open_.setdefault(kind, []).append(place)
        sizes[kind] = sizes.get(kind, 0) + tensor.numel() * tensor.element_size()
        if sizes[kind] >= BUCKET:
            yield open_.pop(kind)
            sizes.pop(kind)
    yield from open_.values()


# ------------------------------------------------------------------ what all agree upon


@torch.compiler.disable
def check_together(told: Mapping[str, Any]) -> None:
    if _alike(repr(told).encode()):
        return
    each = gather(told)
    places = {next(iter(one.items())) for one in each}
    if len(places) > 1:  # they are not at the same place
        lines = [f"process {n}: {next(iter(one.values()))}" for n, one in enumerate(each)]
    else:
        keys = [key for key in each[0] if len({repr(one.get(key)) for one in each}) > 1]
        lines = [f"process {n}: {key} {one.get(key)}" for key in keys for n, one in enumerate(each)]
    where = "" if len(places) > 1 else f"{next(iter(told.values()))}: "
    raise RuntimeError(
        f"{where}the {len(each)} processes are not about to do the same, and would wait for each "
        f"other for ever. {'; '.join(lines)}. Likely causes: losses, networks or a method that "
        "depend on the number of the process; fewer batches in one of them; a callback that "
        "stops, evaluates or monitors in one only. All processes need the same objectives and "
        "variables, and make the same steps."
    )


@torch.compiler.disable
def gather(told: Any) -> list[Any]:
    if processes() == 1:
        return [told]
    found: list[Any] = [None] * processes()
    with _explained("telling each other what they are about to do"):
        distributed.all_gather_object(found, told)
    return found


def _alike(told: bytes) -> bool:
    """Whether all processes tell the same: one small collective, whatever they tell."""
    if processes() == 1:
        return True
    digest = int.from_bytes(hashlib.sha256(told).digest()[:7])
    both = torch.tensor([digest, -digest], dtype=torch.int64, device=_device())
    with _explained("comparing what they are about to do"):
        distributed.all_reduce(both, distributed.ReduceOp.MAX)
    highest, lowest = both.tolist()
    return bool(highest == -lowest)


@torch.compiler.disable
def any_process(flags: np.ndarray) -> np.ndarray:
    """Where any process has true; all bring flags of one shape."""
    return flags if _alike(flags.tobytes()) else np.any(gather(flags), axis=0)


def differing(variables: Sequence[Variable]) -> list[int]:
    if processes() == 1 or not variables:
        return []
    prints = torch.stack([_print(v).cpu() for v in variables])
    highest = torch.cat([prints, -prints]).to(_device())
    with _explained("comparing their variables"):
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    first, second = highest.cpu().chunk(2)
    return [int(place) for place in torch.nonzero(first != -second)]


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _print(variable: Variable) -> Tensor:
    """() int64 that tells the bits of a variable from others."""
    flat = raw(variable).detach().reshape(-1).contiguous()
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    bits = flat.view(_BITS[flat.element_size()]).to(torch.int64)
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    return (bits * (places * 2654435761 % 1000003)).sum()


@torch.compiler.disable
def broadcast(variables: Sequence[Variable]) -> None:
    if processes() == 1:
        return
    values = [raw(variable).detach() for variable in variables]
    for bucket in _buckets(values):
        flat = torch.cat([values[place].reshape(-1) for place in bucket])
        with _explained("taking over the values of process 0"):
            distributed.broadcast(flat, src=0)
        pieces = flat.split([values[place].numel() for place in bucket])
        for place, piece in zip(bucket, pieces, strict=True):
            values[place].copy_(piece.view(values[place].shape))


def _device() -> torch.device:
    """Where small collectives take place: on the CPU, unless the group has only another one."""
    if "gloo" in str(distributed.get_backend_config()):
        return torch.device("cpu")
    return torch.device(keras.ops.zeros(()).device)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Around a collective: a failure says what it means and what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        rank, count = distributed.get_rank(), distributed.get_world_size()
        raise RuntimeError(
            f"Process {rank} of {count} waited for the others while {doing}, and at least one did "
            "not come. Likely causes: a process failed (its own error is in its own output) or was "
            "killed; it had fewer batches or ended its loop early; or only some processes call "
            "fit, evaluate or pt.gradients, as behind `if rank == 0:`. All processes of the "
            "default group must make the same calls and the same number of steps; give the "
            "number with steps_per_epoch=, and keep to one process only what does not train or "
            f"evaluate, as saving and printing. PyTorch says: {error}"
        ) from error


# ------------------------------------------------------------------ what is refused


def unwrapped(module: Any) -> Any:
    """The module in a `DistributedDataParallel`, whose work is done here; others as they are."""
    while isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    return module


def refusal(model: Any, fits: bool = False) -> str | None:
    del fits
    together = distributed.is_available() and distributed.is_initialized()
    for module in _modules(model):
        if isinstance(module, nn.DataParallel):
            return (
                "DataParallel spreads a network over the devices of one process. Give the network "
                "itself, `wrapper.module`, and start one process for each device: torchrun "
                "--nproc_per_node=N, with torch.distributed.init_process_group() in the program"
            )
        if not together:  # then no parameter is split over processes
            continue
        sharded = [name for name, p in module.named_parameters(recurse=False) if _is_sharded(p)]
        if sharded:
            return (
                f"parameter {sharded[0]!r} of {type(module).__name__} is split over processes (a "
                "DTensor, as fully_shard of FSDP2 makes them), and the gradients of several losses "
                "are taken by whole parameters. Leave them whole: every process then holds a copy, "
                "as with DistributedDataParallel, and polytape adds the gradients up. What does "
                "not fit into one device trains sharded on JAX, with "
                "keras.distribution.ModelParallel"
            )
    return None


def _is_sharded(parameter: Any) -> bool:
    return isinstance(parameter, distributed.tensor.DTensor)


def _modules(model: Any) -> Iterator[nn.Module]:
    """A module and those inside it; Keras keeps the layers of a model in a list of its own."""
    if isinstance(model, nn.Module):
        yield from model.modules()
        for layer in getattr(model, "layers", ()):
            yield from _modules(layer)
    elif isinstance(model, (list, tuple)):
        for each in model:
            yield from _modules(each)
    elif isinstance(model, Mapping):
        yield from _modules([*model.values()])
