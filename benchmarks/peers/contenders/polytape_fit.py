"""polytape's `pt.Model` on each backend: `fit`, and the compiled step that `fit` runs."""

import functools
import itertools
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Spent
from benchmarks.peers import methods
from benchmarks.peers.contender import Peer, Training, Way, clocked
from benchmarks.peers.devices import Machine
from benchmarks.peers.nets import Net, batch, channels_first


def training(backend: str, net: Net, method: str, rate: float, machine: Machine) -> Training:
    common.choose(backend)
    import keras

    import polytape as pt
    from benchmarks.peers import keras_nets

    x, y = batch(net)
    if backend == "torch" and x.ndim == 4:  # PyTorch's convolutions want that
        keras.config.set_image_data_format("channels_first")
        x = channels_first(x)
    model, variables = keras_nets.build(pt.Model, net)
    losses = keras_nets.losses(net)
    given: dict[str, Any] = {"loss": losses}
    if net.per_example:
        objectives = [pt.Objective(name, loss, per="example") for name, loss in losses.items()]
        given = {"objectives": objectives}
    combine = methods.polytape(method, net)
    model.compile(keras.optimizers.SGD(rate), combine=combine, verbose=0, **given)

    def restore(rate: float) -> None:
        keras_nets.load_first(variables)
        model.optimizer.learning_rate = rate

    restore(rate)
    ways = {"fit": _fit(model, x, y, net.batch), "step": _step(backend, model, x, y, machine)}
    return Training(ways, lambda: keras_nets.read(variables), restore, epochs={"fit": "step"})


def _fit(model: Any, x: Any, y: Any, size: int) -> Way:
    """An epoch of that many batches, cut out of arrays."""
    epoch = common.Epoch(model, size)

    @functools.lru_cache(maxsize=2)
    def repeated(count: int) -> Any:
        targets = {name: np.concatenate([part] * count) for name, part in y.items()}
        return np.concatenate([x] * count), targets

    return lambda count: epoch(*repeated(count))


def _step(backend: str, model: Any, x: Any, y: Any, machine: Machine) -> Way:
    """`model.train_function`, on a batch that lies ready on the device."""
    if backend == "jax":
        return _jax_step(model, x, y)
    import keras

    data = keras.tree.map_structure(keras.ops.convert_to_tensor, (x, y))
    if backend == "torch":
        return clocked(lambda: model.train_function([data]), machine)
    return clocked(lambda: model.train_function(iter([data])), machine)


def _jax_step(model: Any, x: Any, y: Any) -> Way:
    """State goes in and comes out; variables get it back when the clock has stopped."""
    import jax

    data = jax.tree.map(jax.numpy.asarray, (x, y))

    def run(count: int) -> Spent:
        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state: Any = tuple([variable.value for variable in group] for group in groups)
        jax.block_until_ready(state)
        start = Spent.now()
        for _ in range(count):
            _, state = model.train_function(state, itertools.repeat(data, 1))
        jax.block_until_ready(state)
        spent = Spent.now().since(start)
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        return spent

    return run


PEERS = [
    Peer(
        name=f"polytape {backend}",
        framework=backend,
        needs=(backend,),
        pip=f'pip install -e ".[{backend}]"',
        methods=tuple(methods.METHODS),
        make=functools.partial(training, backend),
    )
    for backend in ("jax", "tensorflow", "torch")
]
