"""PyTorch: processes that do not do the same are told so, in words, and none of them hangs."""

import os
import time
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from processes import Ended, each, together
from small import LOSSES, fill, tensors
from spread import batches, made, part, train

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.distributed is of PyTorch"
)


def message(action: Any) -> str:
    """What it raises."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def given(rank: int, count: int) -> Any:
    return part(batches(), rank, count)


# ------------------------------------------------------------------ what is the same must be


def other_objectives(rank: int) -> str:
    found = fill(pt.Model(*tensors()))
    names = "abc" if rank == 0 else "ab"
    found.compile("sgd", {name: LOSSES[name] for name in names}, combine="upgrad")
    x, y = given(rank, 2)
    return message(lambda: found.fit(x, {n: y[n] for n in names}, batch_size=8, verbose=0))


def other_methods(rank: int) -> str:
    found = made("upgrad" if rank == 0 else "mgda")
    return message(lambda: train(found, given(rank, 2), 8))


def other_numbers_of_batches(rank: int) -> str:
    found = made("upgrad")
    x, y = given(rank, 2)
    cut = slice(0, len(x) - 8 * rank)
    return message(lambda: train(found, (x[cut], {n: v[cut] for n, v in y.items()}), 8))


def ends_early(rank: int) -> str:
    """A generator whose length nobody knows."""

    def batches_of() -> Any:
        x, y = given(rank, 2)
        for step in range(10 - 3 * rank):
            some = slice(8 * step, 8 * step + 8)
            yield x[some], {name: values[some] for name, values in y.items()}

    return message(lambda: made("upgrad").fit(batches_of(), verbose=0))


def monitors_in_one(rank: int) -> str:
    callbacks = [] if rank else [pt.callbacks.GradientMonitor(every=1)]
    return message(lambda: train(made("dwa"), given(rank, 2), 8, callbacks=callbacks))


class StopsAtBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = batch == 4


def stops_in_the_middle(rank: int) -> str:
    callbacks = [StopsAtBatch()] if rank else []
    return message(lambda: train(made("upgrad"), given(rank, 2), 8, callbacks=callbacks))


class Slower(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.01


def another_rate_in_one(rank: int) -> str:
    callbacks = [Slower()] if rank else []
    return message(lambda: train(made("upgrad"), given(rank, 2), 8, callbacks=callbacks))


def validates_in_one(rank: int) -> str:
    data = given(rank, 2)
    options = {} if rank else {"validation_data": data}
    return message(lambda: train(made("upgrad"), data, 8, **options))


def not_finite_in_one(rank: int) -> str:
    """Its target lies in the part of process 0."""
    x, y = part(batches("infinite"), rank, 2)
    assert np.isfinite(y["a"]).all() == (rank == 1)
    return message(lambda: train(made("upgrad", on_nonfinite="raise"), (x, y), 8))


def other_losses_in_a_loop(rank: int) -> str:
    w = keras.Variable([1.0, 2.0])
    names = ("a", "b") if rank else ("a", "c")
    return message(lambda: pt.gradients(lambda: dict.fromkeys(names, w[0] * w[1] ** 2), [w]))


def other_variables_in_a_loop(rank: int) -> str:
    w = keras.Variable(np.ones(2 + rank, "float32"))
    return message(lambda: pt.gradients(lambda: {"a": w[0] * w[1], "b": w[1] ** 2}, [w]))


def other_values_in_a_loop(rank: int) -> str:
    w, same = keras.Variable([1.0, 2.0 + rank], name="w"), keras.Variable([1.0], name="same")
    losses = lambda: {"a": w[0] * same[0], "b": w[1] ** 2 * same[0]}  # noqa: E731
    return message(lambda: pt.gradients(losses, {"one": same, "two": w}))


def sharded(rank: int) -> str:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    return message(lambda: pt.gradients(dict, module))


WORDS = {
    other_objectives: ["not about to do the same", "process 0", "a_loss"[:1], "process 1"],
    other_methods: ["beginning of fit()", "process 0: method UPGrad", "process 1: method MGDA"],
    other_numbers_of_batches: [
        "ValueError: fit(): the processes have different numbers of batches",
        "process 0 has 10, process 1 has 9",
        "steps_per_epoch=9",
    ],
    ends_early: [
        "process 0: a step of training",
        "process 1: the results of an epoch",
        "fewer batches in one of them",
    ],
    monitors_in_one: ["process 0: monitored True", "process 1: monitored False"],
    stops_in_the_middle: ["process 1: the results of an epoch", "a callback that stops"],
    another_rate_in_one: ["after epoch 1", "/learning_rate'", "the same callbacks"],
    validates_in_one: ["process 0: validation data True", "process 1: validation data False"],
    not_finite_in_one: ["FloatingPointError", "'a'"],
    other_losses_in_a_loop: ["pt.gradients", "objectives ['a', 'c']", "objectives ['a', 'b']"],
    other_variables_in_a_loop: ["pt.gradients", "variables [((2,)", "variables [((3,)"],
    other_values_in_a_loop: ["1 of 2 variables have other values", "'two'", "broadcast"],
    sharded: ["pt.gradients: ", "fully_shard of FSDP2", "ModelParallel"],
}


def all_of_these(rank: int, count: int) -> list[str]:
    return [action(rank) for action in WORDS]


@pytest.fixture(scope="module")
def told() -> list[list[str]]:
    return each(__name__, "all_of_these", 2)


@pytest.mark.parametrize("action", WORDS, ids=lambda action: action.__name__)
def test_both_processes_say_what_differs(action: Any, told: list[list[str]]) -> None:
    place = [*WORDS].index(action)
    for texts in told:
        for words in WORDS[action]:
            assert words in texts[place]


# ------------------------------------------------------------------ who does not come


def only_one_fits(rank: int, count: int) -> str:
    if rank == 0:
        return message(lambda: train(made("upgrad"), given(0, 2), 8))
    time.sleep(6.0)  # as if it did something else
    return ""


def one_dies(rank: int, count: int) -> str:
    class Dies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if rank == 1 and batch == 3:
                os._exit(7)

    found = made("upgrad")
    return message(lambda: train(found, given(rank, 2), 8, callbacks=[Dies()]))


def last_words(function: str) -> list[Ended]:
    return together(__name__, function, 2, group_seconds=4.0, seconds=60.0)


def test_a_process_that_does_not_come() -> None:
    for function in ("only_one_fits", "one_dies"):
        first, second = last_words(function)
        assert (second.code == 7) == (function == "one_dies"), second.printed
        text = first.returned
        assert text.startswith("RuntimeError: Process 0 of 2 waited for the others"), text
        assert "if rank == 0" in text, text
        assert "PyTorch says:" in text, text
