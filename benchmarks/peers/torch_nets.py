"""The nets in PyTorch, for its libraries and for polytape's loop. Their twins: `keras_nets.py`."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.nets import FIELDS, IDS, TOKENS, Array, Net, Role, first_weights


class Network(nn.Module):
    """A trunk, whose parameters all objectives share, and a head for each.

    Per example all is trunk, and there are no heads.
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.trunk: nn.Module = {
            "tiny-mlp": _mlp,
            "wide-mlp": _mlp,
            "lenet": _lenet,
            "resnet": ResNet,
            "transformer": Transformer,
            "recommender": _recommender,
            "per-example": _convolutions,
        }[net.kind](net)
        self.heads = nn.ModuleList([] if net.per_example else [_head(net) for _ in net.heads])

    def losses(self, features: Tensor, targets: list[Tensor]) -> list[Tensor] | Tensor:
        """A scalar for each head; per example one tensor of all."""
        if self.net.per_example:
            return functional.cross_entropy(features, targets[0], reduction="none")
        compare: Any = {
            "squares": functional.mse_loss,
            "classes": functional.cross_entropy,
            "clicks": functional.binary_cross_entropy_with_logits,
        }[self.net.loss]
        pairs = zip(self.heads, targets, strict=True)
        return [compare(head(features), target) for head, target in pairs]


def load_first(network: Network) -> None:
    """Give it the weights that all begin with."""
    found = list(_parameters(network))
    described = [(role, tuple(_as_keras(role, p.detach()).shape)) for role, p in found]
    with torch.no_grad():
        for (role, p), value in zip(found, first_weights(described), strict=True):
            p.copy_(_as_torch(role, torch.from_numpy(value)))


def read(network: Network) -> list[Array]:
    return [_as_keras(role, p.detach()).cpu().numpy().copy() for role, p in _parameters(network)]


def _parameters(network: Network) -> Any:
    for module in network.modules():  # in the order in which they were made
        for name, parameter in module.named_parameters(recurse=False):
            yield _role(module, name), parameter


def _role(module: nn.Module, name: str) -> Role:
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
        return "gamma" if name == "weight" else "beta"
    return "kernel" if name == "weight" else "bias"


def _as_keras(role: Role, value: Tensor) -> Tensor:
    """A kernel has its inputs before its outputs there."""
    if role != "kernel":
        return value
    return value.T if value.ndim == 2 else value.permute(2, 3, 1, 0)


def _as_torch(role: Role, value: Tensor) -> Tensor:
    if role != "kernel":
        return value
    return value.T if value.ndim == 2 else value.permute(3, 2, 0, 1)


class Flatten(nn.Module):
    """Channels last, as Keras flattens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(1)


def _head(net: Net) -> nn.Module:
    if net.kind == "lenet":
        return nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, net.units))
    inner = {"resnet": net.widths[-1:], "transformer": (64,)}.get(net.kind, net.widths[-1:])
    return nn.Linear(inner[0], net.units)


def _mlp(net: Net) -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(net.widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers)


def _lenet(net: Net) -> nn.Module:
    del net
    return nn.Sequential(
        *(nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(Flatten(), nn.Linear(720, 50), nn.ReLU()),
    )


def _recommender(net: Net) -> nn.Module:
    layers: list[nn.Module] = [nn.Embedding(IDS, 32), nn.Flatten()]
    for inner, outer in itertools.pairwise((32 * FIELDS, *net.widths)):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers)


def _convolutions(net: Net) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ELU()),
        *(nn.Conv2d(32, 64, 3), nn.ELU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ELU(), nn.MaxPool2d(3)),
        *(Flatten(), nn.Linear(576, 128), nn.ELU(), nn.Linear(128, net.units)),
    )


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outer)
        self.short: nn.Module = nn.Identity()
        if stride == 2:
            narrow = nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.short = nn.Sequential(narrow, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(hidden)) + self.short(x)).relu()


class ResNet(nn.Sequential):
    """A convolution, two blocks of each width, and the mean over the picture."""

    def __init__(self, net: Net) -> None:
        stem = nn.Conv2d(3, net.widths[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(net.widths[0]), nn.ReLU()]
        inner = net.widths[0]
        for stage, width in enumerate(net.widths):
            for stride in (2 if stage else 1, 1):
                layers.append(Block(inner, width, stride))
                inner = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Attention(nn.Module):
    """Four heads of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.output = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (4, 16)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.output(attended.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and a dense layer, each normalised before."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(64), Attention()
        self.norm, self.wide, self.narrow = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.narrow(self.wide(self.norm(x)).relu())


class Transformer(nn.Module):
    """Tokens, two blocks, and the mean over the positions."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        del net
        self.tokens = nn.Embedding(TOKENS, 64)
        self.blocks = nn.Sequential(TransformerBlock(), TransformerBlock())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.tokens(x)).mean(dim=1)
