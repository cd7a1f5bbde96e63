"""PyTorch without Keras models: modules, torch.optim, autocast and a GradScaler.

KERAS_BACKEND=torch python examples/torch_loop.py

`pt.gradients` takes the modules themselves; the updates come back in the order of their parameters
and go where PyTorch's optimizers look for gradients.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports Keras

import torch

import polytape as pt

torch.manual_seed(0)
x = torch.randn(256, 8)
near, far = x[:, :1], torch.tanh(x[:, 1:2] * 3 - x[:, :1])

modules = {
    "encoder": torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh()),
    "near": torch.nn.Linear(32, 1),
    "far": torch.nn.Linear(32, 1),
}
parameters = [p for module in modules.values() for p in module.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-2)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
combiner = pt.Combiner(pt.PerNetwork({"encoder": pt.UPGrad(), "*": pt.Sum()}))


def losses():
    """One forward pass, inside; what else is wanted comes back as grads.outputs."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = modules["encoder"](x)
        first, second = modules["near"](code), modules["far"](code)
    found = {
        "near": torch.nn.functional.mse_loss(first.float(), near),
        "far": torch.nn.functional.mse_loss(second.float(), far),
    }
    return found, second


for step in range(100):
    grads = pt.gradients(losses, modules, scale=scaler.scale)
    for parameter, update in zip(parameters, combiner(grads), strict=True):
        parameter.grad = update
    scaler.step(optimizer)  # skips the step if an update overflowed
    scaler.update()
    if step % 25 == 0:
        shown = {name: round(float(loss), 4) for name, loss in grads.losses.items()}
        print(step, shown, "cosine", round(float(grads.cosines[0, 1]), 3))

assert all(float(loss) < 0.5 for loss in grads.losses.values())
