"""What loops in PyTorch share: net and batch on the device, optimizer, first weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.peers import torch_nets
from benchmarks.peers.contender import Training, clocked
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Net, batch, channels_first


class Loop:
    """A net in training by a loop.

    network  a `torch_nets.Network`;  x, targets  its batch
    shared, own  parameters of the trunk and of the heads
    """

    def __init__(self, net: Net, rate: float, machine: Machine) -> None:
        self.net, self.machine = net, machine
        device = "cuda" if machine.device == "gpu" else "cpu"
        self.network = torch_nets.Network(net).to(device).train()
        torch_nets.load_first(self.network)
        x, y = batch(net)
        self.x = torch.from_numpy(channels_first(x)).to(device)
        self.targets = [torch.from_numpy(part).to(device) for part in y.values()]
        if net.loss == "classes":
            self.targets = [part.long() for part in self.targets]
        self.shared = list(self.network.trunk.parameters())
        self.own = list(self.network.heads.parameters())
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=rate)

    def forward(self) -> tuple[Tensor, list[Tensor] | Tensor]:
        """Features, and losses: a list of scalars, per example one tensor."""
        features = self.network.trunk(self.x)
        return features, self.network.losses(features, self.targets)

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sum_step(self) -> None:
        """What one does in PyTorch for the sum of losses, per example for their mean."""
        _, losses = self.forward()
        total = sum(losses) if isinstance(losses, list) else losses.mean()
        total.backward()
        self.update()

    def training(self, ways: Mapping[str, Callable[[], None]]) -> Training:
        def restore(rate: float) -> None:
            torch_nets.load_first(self.network)
            for group in self.optimizer.param_groups:
                group["lr"] = rate

        made = {name: clocked(step, self.machine) for name, step in ways.items()}
        return Training(made, lambda: torch_nets.read(self.network), restore)
