"""polytape in a loop on PyTorch: `pt.gradients` and a `pt.Combiner`, modules and `torch.optim`.

Every example an objective it takes from Keras layers only: there the net and the optimizer are
Keras's.
"""

from typing import Any

from benchmarks import common
from benchmarks.peers import methods
from benchmarks.peers.contender import Peer, Training, clocked
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Net, batch, channels_first


def training(net: Net, method: str, rate: float, machine: Machine) -> Training:
    common.choose("torch")
    import polytape as pt

    combiner = pt.Combiner(methods.polytape(method, net))
    return (_per_example if net.per_example else _scalars)(net, combiner, rate, machine)


def _scalars(net: Net, combiner: Any, rate: float, machine: Machine) -> Training:
    import polytape as pt
    from benchmarks.peers.torch_loop import Loop

    loop = Loop(net, rate, machine)
    parameters = list(loop.network.parameters())

    def losses() -> dict[str, object]:
        return dict(zip(net.heads, loop.forward()[1], strict=True))

    def step() -> None:
        grads = pt.gradients(losses, loop.network)
        for parameter, update in zip(parameters, combiner(grads), strict=True):
            parameter.grad = update
        loop.update()

    return loop.training({"loop": step})


def _per_example(net: Net, combiner: Any, rate: float, machine: Machine) -> Training:
    import keras

    import polytape as pt
    from benchmarks.peers import keras_nets

    keras.config.set_image_data_format("channels_first")
    model, variables = keras_nets.build(keras.Model, net)
    optimizer = keras.optimizers.SGD(rate)
    x, y = batch(net)
    pictures, head = keras.ops.convert_to_tensor(channels_first(x)), net.heads[0]
    targets = keras.ops.convert_to_tensor(y[head])
    compare = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def losses() -> dict[str, Any]:
        return {head: compare(targets, model(pictures, training=True)[head]) / net.batch}

    def step() -> None:
        grads = pt.gradients(losses, model, per="example")
        optimizer.apply(combiner(grads), model.trainable_variables)

    def restore(rate: float) -> None:
        keras_nets.load_first(variables)
        optimizer.learning_rate = rate

    restore(rate)
    return Training({"loop": clocked(step, machine)}, lambda: keras_nets.read(variables), restore)


PEERS = [
    Peer(
        name="polytape torch, loop",
        framework="torch",
        needs=("torch",),
        pip='pip install -e ".[torch]"',
        methods=tuple(methods.METHODS),
        make=training,
    )
]
