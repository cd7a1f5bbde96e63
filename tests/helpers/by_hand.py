"""Training loops written out by hand: the framework's own gradients, Keras's own optimizers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Array = np.ndarray
Networks = dict[str, keras.layers.Layer]
BACKEND = keras.backend.backend()
STEPS, BATCH = 5, 4
RATE = 0.01
QUICK: dict[str, Any] = {"verbose": 0}  # to compile


def run(
    step: Callable[..., None], networks: Networks, optimizers: Sequence[Any], *data: Any
) -> None:
    """STEPS steps by hand: `step` is called with the batches of nests of arrays.

    On JAX the step is compiled, since Keras's optimizers take seconds without.
    """
    for optimizer, own in optimizers:
        optimizer.build(own)
    state = [
        v for found in (*networks.values(), *(o for o, _ in optimizers)) for v in found.variables
    ]
    if BACKEND == "jax":
        step = _compiled(step, state)
    for batch in batches(*data):
        step(*batch)


def _compiled(step: Callable[..., None], state: Sequence[Any]) -> Callable[..., None]:
    import jax

    @jax.jit
    def after(values: Sequence[Any], batch: Any) -> list[Any]:
        with keras.StatelessScope(state_mapping=list(zip(state, values, strict=True))) as scope:
            step(*batch)
        return [scope.get_current_value(variable) for variable in state]

    def stateful(*batch: Any) -> None:
        for variable, value in zip(state, after([v.value for v in state], batch), strict=True):
            variable.assign(value)

    return stateful


def gradients(losses: Callable[[], Sequence[Any]], variables: Sequence[Any]) -> list[list[Any]]:
    """The gradient of each loss by each variable; None where there is no path."""
    tensors = [variable.value for variable in variables]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            values = losses()
        return [tape.gradient(value, tensors) for value in values]
    if BACKEND == "torch":
        import torch

        options = {"retain_graph": True, "allow_unused": True}
        return [list(torch.autograd.grad(value, tensors, **options)) for value in losses()]
    return _of_pure_function(losses, variables, tensors)


def _of_pure_function(losses: Any, variables: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
    import jax
    from jax.interpreters.partial_eval import dce_jaxpr

    def values(tensors: Sequence[Any]) -> list[Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, tensors, strict=True))):
            return list(losses())

    # JAX has zeros where there is no path: ask which arguments each result makes use of.
    jaxpr = jax.make_jaxpr(values)(tensors).jaxpr
    rows = jax.jacrev(values)(tensors)
    found = []
    for index, row in enumerate(rows):
        used = dce_jaxpr(jaxpr, [place == index for place in range(len(rows))])[1]
        found.append([g if there else None for g, there in zip(row, used, strict=True)])
    return found


def added(*rows: Sequence[Any]) -> list[Any]:
    """The sum of gradients, variable by variable, in which None counts as nothing."""
    found = [[g for g in column if g is not None] for column in zip(*rows, strict=True)]
    return [sum(column[1:], start=column[0]) if column else None for column in found]


def averaged(*rows: Sequence[Any]) -> list[Any]:
    """The mean of the gradients that there are, variable by variable."""
    counts = [sum(g is not None for g in column) for column in zip(*rows, strict=True)]
    return [g / count for g, count in zip(added(*rows), counts, strict=True)]


def mse(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.square(y_pred - y_true))


def batches(*arrays: Any) -> Iterator[list[Any]]:
    """STEPS batches of nests of arrays, as `fit` makes them."""
    for step in range(STEPS):
        chosen = slice(step * BATCH, (step + 1) * BATCH)
        yield [
            keras.tree.map_structure(lambda a: ops.convert_to_tensor(a[chosen]), nest)  # noqa: B023
            for nest in arrays
        ]


def normal(*shape: int, seed: int = 0) -> Array:
    """(STEPS * BATCH, *shape) numbers for STEPS batches."""
    rng = np.random.default_rng((seed, *shape))
    return rng.normal(size=(STEPS * BATCH, *shape)).astype("float32")


def network(inputs: int | tuple[int | None, ...], *stack: Any) -> keras.Sequential:
    """A Sequential of layers; a number stands for a linear Dense of so many units."""
    shape = (inputs,) if isinstance(inputs, int) else inputs
    found = [layers.Dense(item) if isinstance(item, int) else item for item in stack]
    return keras.Sequential([keras.Input(shape), *found])


def twins(make: Callable[[], Networks]) -> tuple[Networks, Networks]:
    """Networks and their double, with equal weights."""
    pair = make(), make()
    for networks in pair:
        rng = np.random.default_rng(3)
        for variable in variables_of(networks):
            variable.assign(0.5 * rng.normal(size=variable.shape))
    return pair


def variables_of(networks: Mapping[str, Any]) -> list[Any]:
    return [v for network in networks.values() for v in network.trainable_variables]


def train(model: keras.Model, x: Any, y: Any = None) -> dict[str, list[float]]:
    """STEPS steps of `fit`, on the batches of `batches`."""
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **options).history


def apply(optimizer: keras.optimizers.Optimizer, gradients: Any, variables: Any) -> None:
    """One update by hand."""
    optimizer.apply_gradients(list(zip(gradients, variables, strict=True)))


def assert_alike(
    mine: Networks, theirs: Networks, *optimizers: tuple[Any, Any], atol: float = 1e-6
) -> None:
    """Equal weights, statistics and slots. optimizers: pairs of one in `pt.Model` and by hand."""
    pairs = [(one, theirs[name]) for name, one in mine.items()]
    for one, other in [*pairs, *optimizers]:
        for variable, expected in zip(one.variables, other.variables, strict=True):
            found, wanted = (ops.convert_to_numpy(v.value) for v in (variable, expected))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=atol, err_msg=variable.path)
