"""A loop as multi-task libraries write it, LibMTL among them, after its public description.

A backward pass for each objective, its gradient flattened into a row of a T x P matrix, weights
from that matrix in NumPy, one update out of it. The T x T problems are solved exactly, in float64:
this is what the others' updates are compared with.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import methods
from benchmarks.peers.contender import Peer, Training
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Array, Net


def training(net: Net, method: str, rate: float, machine: Machine) -> Training:
    import torch

    from benchmarks.peers.torch_loop import Loop

    loop = Loop(net, rate, machine)
    if method == "sum":
        return loop.training({"loop": loop.sum_step})
    share = methods.share(method, net)
    size = sum(p.numel() for p in loop.shared)

    def step() -> None:
        losses = [loss * share for loss in loop.forward()[1]]
        rows = torch.empty(len(losses), size, device=loop.x.device)
        for index, loss in enumerate(losses):
            # The heads' gradients add up: each has one loss.
            loss.backward(retain_graph=index + 1 < len(losses))
            rows[index] = torch.cat([p.grad.flatten() for p in loop.shared])
            for p in loop.shared:
                p.grad = None
        weights = WEIGHTS[method]((rows @ rows.T).double().cpu().numpy())
        update = torch.from_numpy(weights).to(rows) @ rows
        for p, part in zip(
            loop.shared, update.split([p.numel() for p in loop.shared]), strict=True
        ):
            p.grad = part.view_as(p)
        loop.update()

    return loop.training({"loop": step})


# ------------------------------------------------------------------ T weights of a T x T Gramian


def factor(gramian: Array) -> Array:
    """A with A^T A = gramian."""
    values, vectors = np.linalg.eigh(gramian)
    return np.sqrt(values.clip(0))[:, None] * vectors.T


def projection(gramian: Array, start: Array) -> Array:
    """v >= start with the shortest J^T v: J^T start projected onto the dual cone of the rows."""
    from scipy.optimize import nnls

    root = factor(gramian)
    return start + nnls(root, -root @ start)[0]


def upgrad(gramian: Array) -> Array:
    return np.mean([projection(gramian, row) for row in np.eye(len(gramian))], axis=0)


def dualproj(gramian: Array) -> Array:
    return projection(gramian, np.full(len(gramian), 1 / len(gramian)))


def mgda(gramian: Array) -> Array:
    """w in the simplex: |J^T w|^2 + (sum w - 1)^2 over w >= 0 has its minimum on the same ray."""
    from scipy.optimize import nnls

    scale = np.sqrt(np.trace(gramian) / len(gramian))
    root = np.vstack([factor(gramian) / scale, np.ones(len(gramian))])
    found = nnls(root, np.append(np.zeros(len(gramian)), 1.0))[0]
    return found / found.sum()


def imtlg(gramian: Array) -> Array:
    lengths = np.sqrt(np.diag(gramian))
    found = np.linalg.pinv(gramian) @ lengths
    return found / found.sum()


def config(gramian: Array) -> Array:
    """The direction x with U x = 1 for the unit rows U, times the rows' lengths along it."""
    lengths = np.sqrt(np.diag(gramian))
    direction = np.linalg.pinv(gramian / np.outer(lengths, lengths)) @ np.ones(len(gramian))
    weights = direction / lengths  # of the rows as they are
    norm = np.sqrt(weights @ gramian @ weights)
    return weights / norm * (gramian @ weights / norm).sum()


WEIGHTS: dict[str, Callable[[Array], Any]] = {
    "upgrad": upgrad,
    "mgda": mgda,
    "config": config,
    "dualproj": dualproj,
    "imtlg": imtlg,
}
PEERS = [
    Peer(
        name="LibMTL-style loop",
        framework="torch",
        needs=("torch", "scipy"),
        pip='pip install torch "scipy>=1.13"',
        methods=("sum", *WEIGHTS),
        make=training,
    )
]
