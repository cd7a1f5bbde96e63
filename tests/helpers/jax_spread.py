"""Training on one device and on several, in a process that has several (JAX).

python jax_spread.py RUNS FOLDER [LAYOUT ...] [--process N ADDRESS]

makes the runs of a kind, "methods", "scenarios" or a "few" of these, on one device and in every
layout, and prints {layout: {run: distance}} as JSON: how far the weights end from those of one
device, relative to how far these have travelled. FOLDER keeps the latter for the next process.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEVICES = 8
NAMES = ("a", "b", "c")
STEPS, BATCH = 10, 16  # as in `spread`, which imports Keras
Array = np.ndarray


class Batches(NamedTuple):
    """Of all steps, one after the other, (STEPS * BATCH, ...) each."""

    x: Array
    y: dict[str, Array]

    @classmethod
    def drawn(cls, width: int = 6) -> "Batches":
        draw = np.random.default_rng(0)
        x = draw.normal(size=(STEPS * BATCH, width)).astype("float32")
        return cls(x, {name: draw.normal(size=(len(x), 1)).astype("float32") for name in NAMES})

    def own(self, process: int, processes: int) -> "Batches":
        """The part of a process: of every batch its share."""
        share = BATCH // processes

        def cut(array: Array) -> Array:
            parts = array.reshape(STEPS, processes, share, *array.shape[1:])
            return parts[:, process].reshape(-1, *array.shape[1:])

        return Batches(cut(self.x), {name: cut(array) for name, array in self.y.items()})


# ------------------------------------------------------------------ where


class Here(NamedTuple):
    """This process among those that train together."""

    process: int = 0
    processes: int = 1


HERE = Here()
WAY = {"communication": "all_reduce"}


def environment(devices: int = DEVICES) -> dict[str, str]:
    """That of a process in which JAX has so many devices."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1] / "src", here, here.parents[1])))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    more = {"XLA_FLAGS": flags, "PYTHONPATH": path, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **more, "TF_CPP_MIN_LOG_LEVEL": "3"}


def free_address() -> str:
    """One at which a process can be waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def spread(layout: str) -> Iterator[None]:
    """Within a distribution: "data 4" or "model 2 x 4"; "scatter 4", with rows in slices."""
    import keras

    kind, *sizes = layout.replace(" x ", " ").split()
    devices = keras.distribution.list_devices()
    if kind in ("data", "scatter"):
        found: Any = keras.distribution.DataParallel(devices=devices[: int(sizes[0])])
    else:
        rows, columns = map(int, sizes)
        named = ("batch", "model")
        mesh = keras.distribution.DeviceMesh((rows, columns), named, devices[: rows * columns])
        layouts = keras.distribution.LayoutMap(mesh)
        layouts["trunk.*kernel"] = (None, "model")
        layouts["trunk.*bias"] = ("model",)
        layouts["second.*kernel"] = ("model", None)
        found = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    found.auto_shard_dataset = False  # each process has its own part
    keras.distribution.set_distribution(found)
    WAY["communication"] = "scatter" if kind == "scatter" else "all_reduce"
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)
        WAY["communication"] = "all_reduce"


# ------------------------------------------------------------------ what


def network(cls: Any = None, names: Sequence[str] = NAMES) -> Any:
    import keras

    import polytape as pt

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="tanh", name="trunk")(inputs)
    hidden = keras.layers.Dense(8, activation="tanh", name="second")(hidden)
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in names}
    return (cls or pt.Model)(inputs, heads)


def weights(variables: Sequence[Any]) -> Array:
    """The entries of variables, one after the other."""
    found = [np.asarray(variable.value).ravel() for variable in variables]
    return np.concatenate(found).astype("float64")


def trained(variables: Sequence[Any]) -> Array:
    """The same after training: all devices that hold a part of one hold the same bits."""
    for variable in variables:
        held: dict[str, bytes] = {}
        for shard in variable.value.addressable_shards:
            bits = np.asarray(shard.data).tobytes()
            assert held.setdefault(str(shard.index), bits) == bits, variable.path
    return weights(variables)


class Run(NamedTuple):
    """Entries before and after some steps."""

    before: Array
    after: Array


def fitted(model: Any, batches: Batches, **kwargs: Any) -> Run:
    before = weights(model.trainable_variables)
    x, y = batches.own(*HERE)
    size = BATCH // HERE.processes
    model.fit(x, y, batch_size=size, shuffle=False, verbose=0, **kwargs)
    return Run(before, trained(model.trainable_variables))


def compiled(method: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> Any:
    import keras

    model = model or network()
    given = {"loss": {"a": "mse", "b": "mae", "c": "mse"}, **WAY, **kwargs}
    model.compile(optimizer or keras.optimizers.SGD(0.05), combine=method, seed=3, **given)
    return model


def methods() -> dict[str, Callable[[], Run]]:
    """Every method of the catalogue with its usual settings."""
    import spread as shared

    def run(method: Any) -> Callable[[], Run]:
        return lambda: fitted(compiled(method), Batches.drawn())

    return {name: run(method) for name, method in shared.methods().items()}


# ------------------------------------------------------------------ scenarios


def missing_labels(method: Any) -> Run:
    """Labels are missing here and there, of "b" all on the first devices, of "c" in one step."""
    x, y = Batches.drawn()
    place = np.arange(len(x)) % BATCH
    y["a"][np.random.default_rng(1).random(len(x)) < 0.4] = np.nan
    y["b"][place < BATCH // 2] = np.nan
    y["c"][(np.arange(len(x)) // BATCH == 3) | (place == 5)] = np.nan
    return fitted(compiled(method), Batches(x, y))


def not_finite(method: Any) -> Run:
    """NaN in one sample of some steps, and a gradient that overflows in another."""
    x, y = Batches.drawn()
    for step in (2, 5, 6):
        x[step * BATCH + step] = np.nan
    y["a"][4 * BATCH + 9] = 1e30
    return fitted(compiled(method), Batches(x, y))


def sample_weights(method: Any) -> Run:
    x, y = Batches.drawn()
    given = np.random.default_rng(2).random(len(x)).astype("float32")
    given[: BATCH // 2] = 0.0
    model = compiled(method)
    before = weights(model.trainable_variables)
    given = Batches(given, {}).own(*HERE).x
    own, size = Batches(x, y).own(*HERE), BATCH // HERE.processes
    each = dict.fromkeys(y, given)
    model.fit(own.x, own.y, size, 1, 0, shuffle=False, sample_weight=each)
    return Run(before, trained(model.trainable_variables))


def networks(method: Any, **kwargs: Any) -> Run:
    """Two networks with an optimizer each, objectives with routes."""
    import keras

    import polytape as pt

    def forward(networks: Any, inputs: Any) -> Any:
        code = networks["encoder"](inputs)
        return {"code": code, "image": networks["decoder"](code)}

    def sparsity(step: Any) -> Any:
        return keras.ops.mean(abs(step.outputs["code"]))

    keras.utils.set_random_seed(1)
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="trunk")])
    decoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, name="image")])
    model = pt.Model(networks={"encoder": encoder, "decoder": decoder}, forward=forward)
    optimizers = {"encoder": keras.optimizers.Adam(0.01), "*": keras.optimizers.SGD(0.05)}
    objectives = [
        pt.Objective("image", "mse"),
        pt.Objective("sparsity", sparsity, trains="encoder", weight=0.1),
    ]
    given = {"objectives": objectives, "verbose": 0, **kwargs, **WAY}
    model.compile(optimizers, combine=method, seed=3, **given)
    x, y = Batches.drawn()
    return fitted(model, Batches(x, {"image": y["a"]}))


def accumulated(method: Any) -> Run:
    import keras

    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2, use_ema=True)
    return fitted(compiled(method, optimizer=optimizer), Batches.drawn())


def scaled_losses(method: Any) -> Run:
    import keras

    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), 2.0**10)
    return fitted(compiled(method, optimizer=optimizer), Batches.drawn())


def several_steps(method: Any) -> Run:
    return fitted(compiled(method, steps_per_execution=5), Batches.drawn())


def added_losses(method: Any) -> Run:
    import keras

    import polytape as pt

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(
        8, activation="tanh", kernel_regularizer="l2", activity_regularizer="l1", name="trunk"
    )(inputs)
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in NAMES})
    return fitted(compiled(method, model), Batches.drawn())


def whole_batch(method: Any) -> Run:
    """Layers whose outputs depend on the whole batch, or on random numbers."""
    import keras

    import polytape as pt

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, name="trunk")(inputs)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Dropout(0.2, seed=5)(hidden)
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in NAMES})
    run = fitted(compiled(method, model), Batches.drawn())
    statistics = [v for v in model.non_trainable_variables if "moving" in v.path]
    return Run(run.before, np.concatenate([run.after, trained(statistics)])[: len(run.after)])


def features(method: Any) -> Run:
    import keras

    import polytape as pt

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = pt.Features()(keras.layers.Dense(8, activation="tanh", name="trunk")(inputs))
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in NAMES})
    return fitted(compiled(method, model, measure="features"), Batches.drawn())


def low_memory(method: Any) -> Run:
    """Layers so wide that their gradients are compared without being formed."""
    import keras

    import polytape as pt

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(128, activation="tanh", name="trunk")(inputs)
    hidden = keras.layers.Dense(256, activation="tanh", name="second")(hidden)
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in NAMES})
    run = fitted(compiled(method, model, memory="low"), Batches.drawn())
    assert model.plan.phases[0].noted == "large"
    return run


def monitored(method: Any) -> Run:
    """What a monitor keeps, step by step."""
    import polytape as pt
    from polytape.diagnostics.monitor_records import MonitorRun

    with tempfile.TemporaryDirectory() as folder:
        monitor = pt.callbacks.GradientMonitor(folder, every=2)
        fitted(compiled(method), Batches.drawn(), callbacks=[monitor])
        steps = MonitorRun.load(folder).steps
    numbers = [number for step in steps for number in step.scalars.values()]
    return Run(np.zeros(len(numbers)), np.array(numbers))


def logs(method: Any) -> Run:
    """Logged losses and metrics, in training and evaluation."""
    import keras

    metrics = {name: [keras.metrics.MeanAbsoluteError(name="mae")] for name in NAMES}
    model = compiled(method, metrics=metrics)
    x, y = Batches.drawn().own(*HERE)
    size = BATCH // HERE.processes
    history = model.fit(x, y, size, 1, 0, shuffle=False).history
    found = model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)
    numbers = [*(history[name][0] for name in sorted(history)), *(found[n] for n in sorted(found))]
    return Run(np.zeros(len(numbers)), np.array(numbers, "float64"))


def _losses_of(model: Any) -> Callable[[Any, Any], Any]:
    import keras

    def losses(x: Any, y: Any) -> Any:
        outputs = model(x, training=True)
        return {name: keras.ops.mean((outputs[name] - y[name]) ** 2) for name in NAMES}

    return losses


def _on_devices(item: Any) -> Any:
    """A batch as Keras spreads it."""
    import jax
    import keras

    found = keras.distribution.distribution()
    if found is None:
        return item
    layout = found.get_data_layout(item.shape).backend_layout
    return jax.make_array_from_process_local_data(layout, item)


def _batches() -> Iterator[tuple[Any, Any]]:
    x, y = Batches.drawn().own(*HERE)
    size = BATCH // HERE.processes
    for step in range(STEPS):
        part = slice(step * size, (step + 1) * size)
        yield _on_devices(x[part]), {name: _on_devices(array[part]) for name, array in y.items()}


def compiled_step(method: Any) -> Run:
    import polytape as pt

    model = network()
    before = weights(model.trainable_variables)
    step = pt.compiled_step(_losses_of(model), "adam", pt.Combiner(method), model)
    for batch in _batches():
        step(*batch)
    return Run(before, trained(model.trainable_variables))


def loop(method: Any) -> Run:
    """`pt.gradients` and a Combiner, eagerly."""
    import keras

    import polytape as pt

    model = network()
    before = weights(model.trainable_variables)
    optimizer, combiner = keras.optimizers.SGD(0.05), pt.Combiner(method)
    losses = _losses_of(model)
    for x, y in _batches():
        grads = pt.gradients(lambda x=x, y=y: losses(x, y), model)
        optimizer.apply(combiner(grads), model.trainable_variables)
    return Run(before, trained(model.trainable_variables))


def scenarios() -> dict[str, Callable[[], Run]]:
    """What users do, under methods of all kinds."""
    import functools

    import polytape as pt

    phases = ["image", pt.Phase("sparsity", steps=2)]
    table: dict[str, tuple[Callable[..., Run], tuple[str, ...]]] = {
        "missing labels": (missing_labels, ("sum", "upgrad", "moco", "dwa")),
        "not finite": (not_finite, ("sum", "upgrad", "mconfig")),
        "sample weights": (sample_weights, ("sum", "nashmtl")),
        "networks": (networks, ("sum", "upgrad", "pcgrad")),
        "phases": (functools.partial(networks, phases=phases), ("upgrad",)),
        "accumulated": (accumulated, ("upgrad", "mconfig")),
        "scaled losses": (scaled_losses, ("upgrad",)),
        "several steps": (several_steps, ("famo",)),
        "added losses": (added_losses, ("sum", "upgrad")),
        "whole batch": (whole_batch, ("upgrad",)),
        "features": (features, ("mgda",)),
        "low memory": (low_memory, ("upgrad", "pcgrad")),
        "monitored": (monitored, ("sum", "upgrad")),
        "logs": (logs, ("sum", "upgrad")),
        "compiled step": (compiled_step, ("upgrad", "mconfig")),
        "loop": (loop, ("upgrad", "moco")),
    }
    return {
        f"{name}, {method}": functools.partial(run, method)
        for name, (run, names) in table.items()
        for method in names
    }


SCATTERED = (
    "missing labels, upgrad",
    "not finite, upgrad",
    "sample weights, nashmtl",
    "networks, upgrad",
    "networks, pcgrad",
    "phases, upgrad",
    "accumulated, upgrad",
    "scaled losses, upgrad",
    "added losses, upgrad",
    "monitored, upgrad",
    "logs, upgrad",
)
FEW = (
    "missing labels, upgrad",
    "not finite, mconfig",
    "sample weights, sum",
    "networks, upgrad",
    "accumulated, mconfig",
    "whole batch, upgrad",
    "features, mgda",
    "low memory, upgrad",
    "logs, upgrad",
    "compiled step, upgrad",
    "loop, moco",
)


# ------------------------------------------------------------------ the process


def runs(kind: str) -> dict[str, Callable[[], Run]]:
    if kind == "methods":
        return methods()
    every = scenarios()
    if kind == "slices":
        found = {name: run for name, run in methods().items() if name in of_slices()}
        return {**found, **{name: every[name] for name in SCATTERED}}
    return {name: every[name] for name in FEW} if kind == "few" else every


def of_slices() -> list[str]:
    """The methods whose rows may be scattered."""
    import spread as shared
    from polytape.training.communication import check_way

    def fits(method: Any) -> bool:
        try:
            check_way("scatter", method, "parameters")
        except ValueError:
            return False
        return True

    return [name for name, method in shared.methods().items() if fits(method)]


def main(kind: str, folder: Path, layouts: Sequence[str]) -> None:
    found: dict[str, dict[str, float]] = {layout: {} for layout in layouts}
    for name, run in runs(kind).items():
        kept = folder / f"{name}.npz"
        if kept.exists():
            with np.load(kept) as arrays:
                right = Run(arrays["before"], arrays["after"])
        else:
            right = run()
            np.savez(kept, before=right.before, after=right.after)
        travelled = np.linalg.norm(right.after - right.before)
        for layout in layouts:
            with spread(layout):
                other = run()
            found[layout][name] = float(np.linalg.norm(other.after - right.after) / travelled)
    print(json.dumps(found))


if __name__ == "__main__":
    given = sys.argv[1:]
    if "--process" in given:
        place = given.index("--process")
        number, address = given[place + 1 :]
        given = given[:place]
        import keras

        HERE = Here(int(number), 2)
        keras.distribution.initialize(address, 2, int(number))
    main(given[0], Path(given[1]), given[2:])
