"""The nets on which all are compared: shapes, data and first weights, in NumPy alone.

`keras_nets.py` and `torch_nets.py` build them. Each names its parameters in the order of the
layers, with their role and their shape as Keras has it; `first_weights` makes the same numbers of
them everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks import common

Role = Literal["kernel", "bias", "gamma", "beta", "embeddings"]
Array = np.ndarray


@dataclass(frozen=True)
class Net:
    """A trunk and a head for each objective; or, per example, a net whose examples are objectives.

    kind  which trunk (see KINDS);  loss  what each head is compared by;  widths  of the layers
    tasks  the number of objectives
    """

    kind: str
    tasks: int
    batch: int
    loss: Literal["squares", "classes", "clicks"]
    widths: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.tasks}"

    @property
    def per_example(self) -> bool:
        return self.kind == "per-example"

    @property
    def heads(self) -> list[str]:
        return common.names(1 if self.per_example else self.tasks)

    @property
    def units(self) -> int:
        """Of a head's output."""
        return CLASSES if self.loss == "classes" else 1


CLASSES = 10
# Of the transformer and of the recommender: how many different tokens, how many in an example.
TOKENS, LENGTH = 1_000, 64
IDS, FIELDS = 120_000, 8

KINDS = {
    "tiny-mlp": "64-64-64-64, ReLU, batch 64; heads of one unit, squared error",
    "wide-mlp": "784-1024-1024-512, ReLU, batch 256; heads of one unit, squared error",
    "lenet": "36 x 36: convolutions of 10 and 20 filters, dense 50; heads 50-10; batch 256",
    "resnet": "ResNet-18 of a quarter of its width (16 to 128) on 32 x 32, BatchNorm, batch 32; "
    "heads of 10 classes",
    "transformer": f"two blocks, width 64, four heads of attention, {LENGTH} of {TOKENS:,} tokens, "
    "batch 32; heads of 10 classes",
    "recommender": f"{FIELDS} ids, a table of {IDS:,} x 32, dense 128-64, batch 512; heads of one "
    "unit, clicked or not",
    "per-example": "convolutions 32, 64 + pool, 64 + pool, dense 128, 10, ELU, on 28 x 28: 130,890 "
    "parameters; each of the 32 examples of a batch is an objective",
}

_TINY, _WIDE = (64, 64, 64, 64), (784, 1024, 1024, 512)
NETS = (
    Net("tiny-mlp", 4, 64, "squares", _TINY),
    Net("tiny-mlp", 16, 64, "squares", _TINY),
    Net("wide-mlp", 2, 256, "squares", _WIDE),
    Net("wide-mlp", 8, 256, "squares", _WIDE),
    Net("lenet", 2, 256, "classes"),
    Net("resnet", 3, 32, "classes", (16, 32, 64, 128)),
    Net("resnet", 8, 32, "classes", (16, 32, 64, 128)),
    Net("transformer", 4, 32, "classes"),
    Net("recommender", 2, 512, "clicks", (128, 64)),
    Net("recommender", 8, 512, "clicks", (128, 64)),
    Net("per-example", 32, 32, "classes"),
)
KNOWN = {net.name: net for net in NETS}


def batch(net: Net) -> tuple[Array, dict[str, Array]]:
    """The one batch that all train on: inputs, pictures with channels last, and {head: targets}.

    Targets depend on the inputs, each head's in its own way: gradients differ and conflict.
    """
    rng = np.random.default_rng(0)
    if net.kind in ("tiny-mlp", "wide-mlp"):
        return common.regression(net.widths[0], net.tasks, net.batch)
    if net.kind in ("transformer", "recommender"):
        known, length = (TOKENS, LENGTH) if net.kind == "transformer" else (IDS, FIELDS)
        x = rng.integers(0, known, (net.batch, length)).astype("int32")
        seen = (x[:, :FIELDS] % 7 - 3.0) / 2.0
    else:
        shape = {"lenet": (36, 36, 1), "resnet": (32, 32, 3), "per-example": (28, 28, 1)}[net.kind]
        x = rng.standard_normal((net.batch, *shape)).astype("float32")
        seen = x.reshape(net.batch, -1)
    answers = seen @ rng.standard_normal((seen.shape[1], len(net.heads)))
    if net.loss == "clicks":
        return x, {
            name: (answers[:, [index]] > 0).astype("float32")
            for index, name in enumerate(net.heads)
        }
    ranks = answers.argsort(axis=0).argsort(axis=0)
    classes = (ranks * CLASSES // net.batch).astype("int32")
    return x, {name: classes[:, index] for index, name in enumerate(net.heads)}


def first_weights(parameters: Sequence[tuple[Role, tuple[int, ...]]]) -> list[Array]:
    """The same numbers for the same parameters, whoever asks."""
    rng = np.random.default_rng(1)
    return [_first(role, shape, rng) for role, shape in parameters]


def _first(role: Role, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if role == "gamma":
        return np.ones(shape, "float32")
    if role in ("bias", "beta"):
        return np.zeros(shape, "float32")
    scale = 0.05 if role == "embeddings" else np.prod(shape[:-1]) ** -0.5
    return (scale * rng.standard_normal(shape, "float32")).astype("float32")


def channels_first(x: Array) -> Array:
    """Pictures as PyTorch likes them; everything else as it is."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def flat(weights: Sequence[Array]) -> Any:
    """All of them as one vector, float64."""
    return np.concatenate([np.asarray(part, "float64").ravel() for part in weights])
