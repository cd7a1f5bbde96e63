"""PyTorch: processes of a group train as one does on the whole batch, whatever the method."""

from typing import Any

import keras
import numpy as np
import pytest

from processes import each
from small import everything
from spread import CLOSE, SIZE, apart, batches, made, methods, part, train, weights

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.distributed is of PyTorch"
)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


def trained(name: str, optimizer: str, number: int = 0, count: int = 1) -> tuple[Any, list[Any]]:
    """The weights after an epoch on the part of one process, and everything that goes on."""
    found = made(methods()[name], OPTIMIZERS[optimizer]())
    train(found, part(batches(), number, count), SIZE // count)
    return weights(found), everything(found)


def in_group(rank: int, count: int, names: list[str]) -> dict[Any, Any]:
    keras.utils.set_random_seed(rank)
    return {(o, name): trained(name, o, rank, count) for o in OPTIMIZERS for name in names}


def test_two_processes_train_as_one() -> None:
    """Every method of the catalogue, by one pair of processes; what they hold has the same bits."""
    names = [*methods()]
    one, other = each(__name__, "in_group", 2, seconds=400.0, names=names)
    found = {}
    for (optimizer, name), (trained_so, state) in one.items():
        for first, second in zip(state, other[optimizer, name][1], strict=True):
            np.testing.assert_array_equal(first, second, err_msg=f"{name}, {optimizer}")
        found[optimizer, name] = apart(trained_so, trained(name, optimizer)[0])
    assert len(found) == len(names) * len(OPTIMIZERS)
    assert not {key: far for key, far in found.items() if not far < CLOSE}
