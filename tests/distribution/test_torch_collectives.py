"""PyTorch: what is sent, and that it never depends on what a process finds in its data."""

from typing import Any

import keras
import numpy as np
import pytest
from test_torch_fit import CASES, far, run

import polytape as pt
from processes import each
from small import fill
from spread import CLOSE, batches, part

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.distributed is of PyTorch"
)


class Counted:
    """The numbers of entries that are sent while it is open, in order; minus them when waited for.

    Of those that are waited for at once only that they are sent.
    """

    def __enter__(self) -> list[int]:
        import torch.distributed as dist

        self.original, sizes = dist.all_reduce, []

        class Sent:
            def __init__(self, work: Any, size: int) -> None:
                self.work, self.size = work, size

            def wait(self) -> None:
                sizes.append(-self.size)
                self.work.wait()

        def counted(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(tensor.numel())
            work = self.original(tensor, *args, **kwargs)
            return Sent(work, tensor.numel()) if kwargs.get("async_op") else work

        dist.all_reduce = counted
        return sizes

    def __exit__(self, *args: Any) -> None:
        import torch.distributed as dist

        dist.all_reduce = self.original


def wide() -> Any:
    """P much larger than anything else; all of it shared but for two small heads."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(600, activation="tanh")(inputs)
    hidden = keras.layers.Dense(5)(hidden)
    found = pt.Model(inputs, {name: keras.layers.Dense(1)(hidden) for name in "ab"})
    return fill(found)


def sent(rank: int, count: int) -> dict[str, Any]:
    """By method: the large all-reduces of a step, and the entries of the small ones."""
    x, y = part(batches(), rank, count)
    y = {name: y[name] for name in "ab"}
    found: dict[str, Any] = {}
    for method in ("sum", "dwa", "upgrad"):
        trained = wide()
        trained.compile("sgd", {"a": "mse", "b": "mse"}, combine=method)
        trained.train_on_batch(x[:8], {name: values[:8] for name, values in y.items()})
        with Counted() as sizes:
            trained.train_on_batch(x[8:16], {name: values[8:16] for name, values in y.items()})
        large = [size for size in sizes if size > 1000]
        small = [size for size in sizes if 0 < size <= 1000]
        order = ["sent" if size > 0 else "there" for size in sizes if abs(size) > 1000]
        found[method] = large, sum(small), len(small), order
    found["parameters"] = trained.count_params(), sum(np.prod(v.shape) for v in _heads(trained))
    return found


def _heads(found: Any) -> list[Any]:
    return [v for layer in found.layers[-2:] for v in layer.trainable_variables]


def test_a_linear_method_adds_up_once_as_plain_training() -> None:
    for found in each(__name__, "sent", 2):
        whole, heads = found["parameters"]
        for method in ("sum", "dwa"):
            large, small, number, _ = found[method]
            assert large == [whole], method
            assert small < 40, method
            assert number <= 6, method
        large, small, number, order = found["upgrad"]  # rows, each without the other's head
        assert large == [whole - heads / 2] * 2
        assert order == ["sent", "sent", "there", "there"]  # one on its way beside the next
        assert small < 40
        assert number <= 8


# ------------------------------------------------------------------ paths that data choose


def reached(rank: int, count: int, fit: bool) -> dict[str, Any]:
    """One objective is connected in one process only, another in one step only."""
    import torch

    torch.manual_seed(0)
    trunk, head = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)
    x = torch.ones(8, 4)
    params = [*trunk.parameters(), *head.parameters()]
    found = []
    for step in range(3):

        def losses(step: int = step) -> dict[str, Any]:
            code = trunk(x)
            a = code.pow(2).mean() if rank == 0 else torch.zeros(())
            b = head(code).mean() if step % 2 else head(code.detach()).mean()
            return {"a": a, "b": b}

        grads = pt.gradients(losses, {"trunk": trunk, "head": head})
        update = grads.combine("upgrad")
        found += [np.zeros(1) if u is None else u.numpy().copy() for u in update]
        found.append(np.array(grads.connectivity.reach, float))
        with torch.no_grad():
            for parameter, direction in zip(params, update, strict=True):
                parameter -= 0.1 * direction
    return {"found": found, "trunk": trunk.weight.detach().numpy()}


def test_an_objective_that_one_process_alone_can_reach() -> None:
    one, other = each(__name__, "reached", 2, fit=False)
    for first, second in zip(one["found"], other["found"], strict=True):
        np.testing.assert_array_equal(first, second)
    assert one["found"][4].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert one["found"][9].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert np.abs(one["found"][0]).sum() > 0


def if_on_data(rank: int, count: int) -> list[Any]:
    """In fit: an `if` on the data cuts the path of one objective in one process, then in both."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    found = fill(pt.Model(inputs, {name: keras.layers.Dense(1)(hidden) for name in "ab"}))

    def sometimes(step: Any) -> Any:
        value = keras.ops.mean(step.outputs["b"] ** 2)
        positive = float(step.inputs[0, 0]) > 0
        return value if positive else keras.ops.zeros(())

    found.compile(
        keras.optimizers.SGD(0.1),
        objectives=[pt.Objective("a", "mse"), pt.Objective("b", sometimes)],
        combine="upgrad",
        verbose=0,
    )
    signs = ([1, -1, 1], [-1, 1, 1])[rank]
    x = np.concatenate([sign * np.ones((4, 4), "float32") for sign in signs])
    found.fit(x, {"a": x[:, :1]}, batch_size=4, shuffle=False, verbose=0)
    return [v.numpy() for v in found.trainable_variables]


def test_an_if_on_the_data_in_fit() -> None:
    one, other = each(__name__, "if_on_data", 2)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


# ------------------------------------------------------------------ more than two

OF_FOUR = ("upgrad, drop", "missing_labels", "phases_and_optimizers", "accumulated_and_averaged")


def four(rank: int, count: int) -> dict[str, Any]:
    return {name: run(name, rank, count) for name in OF_FOUR}


def test_four_processes_train_as_one() -> None:
    found = each(__name__, "four", 4)
    for name in OF_FOUR:
        assert name in CASES
        alone, first = run(name, 0, 1), found[0][name]
        for other in found[1:]:
            for mine, theirs in zip(first["all"], other[name]["all"], strict=True):
                np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert far(first, alone) < CLOSE, name
