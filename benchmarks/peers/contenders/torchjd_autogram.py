"""TorchJD's engine: the Gramian without the gradients, then a backward pass of weighted losses."""

from collections.abc import Callable
from typing import Any

from benchmarks.peers.contender import Peer, Training
from benchmarks.peers.contenders.torchjd_rows import DIFFERS, NEEDS, PIP, aggregator
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Net


def training(net: Net, method: str, rate: float, machine: Machine) -> Training:
    from torchjd.autogram import Engine

    from benchmarks.peers.torch_loop import Loop

    loop = Loop(net, rate, machine)
    weighting = aggregator(method, net.tasks).gramian_weighting
    # Examples do not mix in their net; losses that are means over a batch have no batch axis.
    engine = Engine(loop.network.trunk, batch_dim=0 if net.per_example else None)
    step = _per_example if net.per_example else _scalars
    return loop.training({"autogram": step(loop, engine, weighting)})


def _scalars(loop: Any, engine: Any, weighting: Any) -> Callable[[], None]:
    """Heads take the gradients of their own losses, without weights, as everywhere here."""
    import torch

    def step() -> None:
        _, losses = loop.forward()
        together = torch.stack(losses)
        weights = weighting(engine.compute_gramian(together))
        heads = torch.autograd.grad(together.sum(), loop.own, retain_graph=True)
        trunk = torch.autograd.grad(together @ weights, loop.shared)
        for parameter, update in zip([*loop.own, *loop.shared], [*heads, *trunk], strict=True):
            parameter.grad = update
        loop.update()

    return step


def _per_example(loop: Any, engine: Any, weighting: Any) -> Callable[[], None]:
    def step() -> None:
        _, losses = loop.forward()
        losses.backward(weighting(engine.compute_gramian(losses)))
        loop.update()

    return step


PEERS = [
    Peer(
        name="TorchJD, autogram",
        framework="torch",
        needs=NEEDS,
        pip=PIP,
        methods=("upgrad", "mgda", "dualproj", "imtlg", "pcgrad"),
        make=training,
        family="TorchJD",
        differs=DIFFERS,
    )
]
