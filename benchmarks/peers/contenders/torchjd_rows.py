"""TorchJD, after its documentation: `mtl_backward` or, per example, `backward`; then `jac_to_grad`.

For a sum of losses it takes what one writes in PyTorch: one backward pass.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.peers import methods
from benchmarks.peers.contender import Peer, Training
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Net


def training(net: Net, method: str, rate: float, machine: Machine) -> Training:
    from benchmarks.peers.torch_loop import Loop

    loop = Loop(net, rate, machine)
    if method == "sum":
        return loop.training({"backward": loop.sum_step})
    step = _per_example(loop, method) if net.per_example else _scalars(loop, method)
    return loop.training({"all at once": lambda: step(None), "one by one": lambda: step(1)})


def aggregator(method: str, tasks: int) -> Any:
    """As TorchJD has it by default."""
    from torchjd import aggregation as jd

    if method == "nashmtl":
        return jd.NashMTL(n_tasks=tasks)
    made = {
        "upgrad": jd.UPGrad,
        "mgda": jd.MGDA,
        "config": jd.ConFIG,
        "dualproj": jd.DualProj,
        "imtlg": jd.IMTLG,
        "pcgrad": jd.PCGrad,
    }
    return made[method]()


def _scalars(loop: Any, method: str) -> Callable[[int | None], None]:
    """A step, given how many objectives are differentiated at once."""
    from torchjd.autojac import jac_to_grad, mtl_backward

    chosen = aggregator(method, loop.net.tasks)

    def step(chunk: int | None) -> None:
        features, losses = loop.forward()
        mtl_backward(losses, features=features, parallel_chunk_size=chunk)
        jac_to_grad(loop.shared, chosen)
        loop.update()

    return step


def _per_example(loop: Any, method: str) -> Callable[[int | None], None]:
    from torchjd.autojac import backward, jac_to_grad

    chosen = aggregator(method, loop.net.tasks)
    share = methods.share(method, loop.net)

    def step(chunk: int | None) -> None:
        _, losses = loop.forward()
        backward(losses * share, parallel_chunk_size=chunk)
        jac_to_grad(loop.shared, chosen)
        loop.update()

    return step


DIFFERS = {
    "mgda": "Frank-Wolfe, up to a gap of 1e-3 or 100 turns",
    "upgrad": "a ridge of 1e-4 on the Gramian",
    "dualproj": "a ridge of 1e-4 on the Gramian",
    "pcgrad": "the order in which gradients meet is drawn at random",
    "nashmtl": "updates have norm one by default",
}
PIP = 'pip install "torchjd[full]>=0.18,<0.19"'
NEEDS = ("torch", "torchjd", "quadprog")
PEERS = [
    Peer(
        name="TorchJD",
        framework="torch",
        needs=NEEDS,
        pip=PIP,
        methods=tuple(methods.METHODS),
        make=training,
        family="TorchJD",
        differs=DIFFERS,
    )
]
