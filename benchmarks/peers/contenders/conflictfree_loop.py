"""conflictfree, after its README: a backward pass for each loss, then `ConFIG_update`."""

from benchmarks.peers import methods
from benchmarks.peers.contender import Peer, Training
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Net


def training(net: Net, method: str, rate: float, machine: Machine) -> Training:
    from conflictfree.grad_operator import ConFIG_update
    from conflictfree.utils import apply_gradient_vector, get_gradient_vector

    from benchmarks.peers.torch_loop import Loop

    loop = Loop(net, rate, machine)
    share = methods.share(method, net)

    def step() -> None:
        rows = []
        for loss in loop.forward()[1]:
            loop.network.trunk.zero_grad()
            (loss * share).backward(retain_graph=True)  # a head keeps that of its loss
            rows.append(get_gradient_vector(loop.network.trunk))
        apply_gradient_vector(loop.network.trunk, ConFIG_update(rows))
        loop.update()

    return loop.training({"loop": step})


PEERS = [
    Peer(
        name="conflictfree",
        framework="torch",
        needs=("torch", "conflictfree"),
        pip='pip install "conflictfree>=0.1.8"',
        methods=("config",),
        make=training,
        # torch.linalg.lstsq's own tolerance: it grows with the number of parameters P.
        differs={"config": "its least squares drop singular values below 1e-7 P of the largest"},
    )
]
