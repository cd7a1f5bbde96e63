"""Several processes of PyTorch, each with its own part of the data, train one model.

torchrun --standalone --nproc_per_node=2 examples/torch_distributed.py

Two lines make the group; everything else is written as for one process, which this program is, too,
when it is started without torchrun. Gradients of all losses are added up over the processes before
the method sees them, so that N processes take the step that one would take on the whole batch.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before anything imports Keras

import keras
import torch
import torch.distributed as dist

import polytape as pt

if "RANK" in os.environ:  # started by torchrun
    dist.init_process_group()

keras.utils.set_random_seed(0)
x = torch.randn(512, 8)
y = {"near": x[:, :1], "far": torch.tanh(x[:, 1:2] * 3 - x[:, :1])}


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(x)

    def __getitem__(self, row):
        return x[row], {name: target[row] for name, target in y.items()}


# Each process loads its own part, as under DistributedDataParallel; `batch_size` is of a process.
sampler = torch.utils.data.DistributedSampler(Rows()) if dist.is_initialized() else None
loader = torch.utils.data.DataLoader(Rows(), batch_size=32, sampler=sampler, shuffle=not sampler)

inputs = keras.Input((8,))
code = keras.layers.Dense(32, activation="tanh")(inputs)
model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(code) for name in y})
model.compile(keras.optimizers.Adam(1e-2), {"near": "mse", "far": "mse"}, combine="upgrad")
callbacks = [keras.callbacks.EarlyStopping("loss")]  # sees the logs of all processes
if sampler:  # else it shuffles every epoch alike
    anew = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: sampler.set_epoch(epoch))
    callbacks.append(anew)
history = model.fit(loader, epochs=4, callbacks=callbacks)
assert history.history["loss"][-1] < history.history["loss"][0]

# A loop of one's own, with PyTorch's modules and optimizer. Losses are means over the part of the
# process, as they are written under DistributedDataParallel; a wrapper is welcome, and not needed.
torch.manual_seed(1)  # the same weights everywhere
module = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
optimizer = torch.optim.Adam(module.parameters(), 1e-2)
combiner = pt.Combiner("pcgrad")

for inputs, target in loader:
    grads = pt.gradients(
        lambda inputs=inputs, target=target: {
            name: torch.nn.functional.mse_loss(module(inputs)[:, k : k + 1], target[name])
            for k, name in enumerate(target)
        },
        module,
    )
    for parameter, update in zip(module.parameters(), combiner(grads), strict=True):
        parameter.grad = update
    optimizer.step()

if not dist.is_initialized() or dist.get_rank() == 0:
    print({name: round(float(loss), 3) for name, loss in grads.losses.items()})
if dist.is_initialized():
    dist.destroy_process_group()
