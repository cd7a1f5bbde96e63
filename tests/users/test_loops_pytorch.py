"""PyTorch without Keras models: modules, names, frozen parameters, autocast, `torch.compile`."""

from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt

if keras.backend.backend() != "torch":
    pytest.skip("for PyTorch", allow_module_level=True)
torch = pytest.importorskip("torch")


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Linear(3, 4)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.head(torch.tanh(self.trunk(x)))


X = torch.linspace(-1, 1, 12).reshape(4, 3)


def losses_of(module: Any) -> Any:
    def losses() -> Any:
        out = module(X)
        return {"a": (out[:, 0] ** 2).mean(), "b": ((out[:, 1] - 1.0) ** 2).mean()}, out

    return losses


NAMES = ("trunk/weight", "trunk/bias", "head/weight", "head/bias")


def test_modules_and_names_in_every_form() -> None:
    module = Pair()
    forms = [module, module.named_parameters(), dict(module.named_parameters())]
    for form in forms:
        assert pt.gradients(losses_of(module), form).connectivity.paths == NAMES
    two = {"trunk": module.trunk, "head": module.head}
    assert pt.gradients(losses_of(module), two).connectivity.paths == NAMES
    bare = pt.gradients(losses_of(module), module.parameters())
    assert bare.connectivity.paths[0] == "unnamed/0"


def test_one_decision_per_network_by_names() -> None:
    module = Pair()
    found = pt.gradients(losses_of(module), module).combine(
        pt.PerNetwork({"trunk": pt.Normalize(), "head": pt.Sum()})
    )
    assert len(found) == 4
    bare = pt.gradients(losses_of(module), module.parameters())
    with pytest.raises(ValueError, match=r"and 4 have no name. Give a module or names: pt.gradien"):
        bare.combine(pt.PerNetwork(pt.Normalize()))


def test_a_step_of_torch_optim_is_that_of_backward() -> None:
    ours, theirs = Pair(), Pair()
    optimizers = [torch.optim.Adam(module.parameters(), lr=0.1) for module in (ours, theirs)]
    for _ in range(3):
        grads = pt.gradients(losses_of(ours), ours)
        for parameter, update in zip(ours.parameters(), grads.combine("sum"), strict=True):
            parameter.grad = update
        optimizers[0].step()
        optimizers[1].zero_grad()
        found, _ = losses_of(theirs)()
        sum(found.values()).backward()
        optimizers[1].step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach(), other.detach(), rtol=1e-4, atol=1e-6)
    assert not grads.outputs.requires_grad


def test_autocast() -> None:
    module = Pair()
    losses = losses_of(module)

    def cast() -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses()

    update = pt.gradients(cast, module).combine("upgrad")
    assert {part.dtype for part in update} == {torch.float32}
    exact = pt.gradients(losses, module).combine("upgrad")
    for mine, other in zip(update, exact, strict=True):
        np.testing.assert_allclose(mine, other, atol=0.05)


def test_a_compiled_module() -> None:
    module = Pair()
    compiled = torch.compile(module, backend="aot_eager")
    grads = pt.gradients(losses_of(compiled), module)
    for mine, other in zip(grads["a"], pt.gradients(losses_of(module), module)["a"], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


def test_frozen_parameters() -> None:
    module = Pair()
    module.trunk.requires_grad_(False)
    update = pt.gradients(losses_of(module), module).combine("upgrad")
    assert [part is None for part in update] == [True, True, False, False]
    with pytest.raises(
        ValueError, match=r"'trunk/weight', which is frozen \(requires_grad=False\)"
    ):
        pt.gradients(losses_of(module), module.named_parameters())
    with pytest.raises(
        ValueError, match=r"'unnamed/0', which is frozen .* Leave it out, set it to"
    ):
        pt.gradients(losses_of(module), module.parameters())
    with pytest.raises(ValueError, match=r"2 of these are frozen: trunk/weight, trunk/bias"):
        pt.gradients(lambda: {"a": module.trunk(X).mean(), "b": module(X).mean()}, module)
    module.requires_grad_(False)
    with pytest.raises(ValueError, match=r"all 4 parameters are frozen .*requires_grad_\(True\)"):
        pt.gradients(losses_of(module), module)


def test_routes_between_modules() -> None:
    module = Pair()
    grads = pt.gradients(losses_of(module), {"net": module})
    found = grads.combine("sum", losses="a", variables=module.head)
    np.testing.assert_allclose(found[0], grads["a"][2])
    assert len(found) == 2


def test_where_keras_trains_keras_models_only() -> None:
    module = Pair()
    with pytest.raises(
        TypeError, match=r"and Pair is a module of torch. .* pt.gradients\(losses, mo"
    ):
        pt.Model.wrap(module)
    model = pt.Model.wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    adam = torch.optim.Adam(module.parameters())
    text = (
        r"optimizer of torch \(Adam\), .* A torch.optim optimizer trains a PyTorch module in a loop"
    )
    with pytest.raises(TypeError, match=r"compile\(optimizer=...\) is an " + text):
        model.compile(adam, loss="mse")
    with pytest.raises(TypeError, match=r"optimizer\['\*'\] is an " + text):
        model.compile({"*": adam}, loss="mse")
    with pytest.raises(TypeError, match=r"compiled_step\(optimizer=...\) is an " + text):
        pt.compiled_step(losses_of(module), adam, "sum", module)
    with pytest.raises(TypeError, match=r"'trunk/weight' is none \(Parameter\). .*torch_loop.py"):
        pt.compiled_step(losses_of(module), "adam", "sum", module)()
