"""Tables of which a batch looks up a few entries: gradients by entry, the update of dense ones.

TensorFlow has sparse gradients of its own, see `tests/engines/test_sparse.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from polytape.engines import engine, gathered

BACKEND = keras.backend.backend()
ALWAYS, NEVER = 1, 2**60  # numbers that must be spared for a gradient to be kept by entry
WORDS, WIDTH = 40, 3
X = np.array([[0, 3, 3], [3, -1, 1], [7, 7, 7], [39, 2, 0]])


@pytest.fixture(autouse=True)
def _small_tables_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "WORTH", ALWAYS)


# ------------------------------------------------------------------ kinds of use, in one recording


class Use(NamedTuple):
    """A way in which losses use tables.

    losses    that use them;  tables  or what else is trained
    by_entry  the losses whose gradients by the first of the tables can be kept by entry
    """

    losses: Callable[[], dict[str, Any]]
    tables: list[Any]
    by_entry: str


def two(first: Any, second: Any) -> dict[str, Any]:
    """Losses of two tensors (4, 3, 3) that were looked up."""
    return {"a": ops.mean(first**2), "b": ops.mean(ops.sin(3.0 * second[:2]))}


def embedding(kind: type = layers.Embedding, **settings: Any) -> Any:
    layer = kind(WORDS, WIDTH, embeddings_initializer=draws, **settings)
    layer.build(None)
    return layer


def draws(shape: Any, dtype: Any = None) -> Any:
    return ops.cast(np.random.default_rng(1).normal(size=shape), dtype or "float32")


def once() -> Use:
    layer = embedding()

    def losses() -> dict[str, Any]:
        found = layer(X)
        return two(found, found)

    return Use(losses, [layer.embeddings], "ab")


def three_times() -> Use:
    layer = embedding()

    def losses() -> dict[str, Any]:
        return {**two(layer(X), layer(X[::-1])), "d": ops.sum(layer(X[:1]))}

    return Use(losses, [layer.embeddings], "abd")


def by_one_only() -> Use:
    """One that a single loss reads, and one that nobody does."""
    own, spare = embedding(), embedding()
    return Use(lambda: {"a": ops.mean(own(X) ** 3)}, [own.embeddings, spare.embeddings], "a")


def tied() -> Use:
    layer = embedding()

    def losses() -> dict[str, Any]:
        found = layer(X)
        logits = ops.matmul(found, ops.transpose(layer.embeddings))
        return {**two(found, found), "d": ops.mean(ops.tanh(logits) ** 2)}

    return Use(losses, [layer.embeddings], "ab")


def tied_by_keras() -> Use:
    layer = embedding(layers.ReversibleEmbedding)

    def losses() -> dict[str, Any]:
        found = layer(X)
        return {**two(found, found), "d": ops.mean(ops.tanh(layer(found, reverse=True)) ** 2)}

    return Use(losses, [layer.embeddings], "ab")


def penalised() -> Use:
    layer = embedding(embeddings_regularizer="l2")

    def losses() -> dict[str, Any]:
        return {**two(layer(X), layer(X)), "d": sum(layer.losses)}

    return Use(losses, [layer.embeddings], "ab")


def masked() -> Use:
    layer, pool = embedding(mask_zero=True), layers.GlobalAveragePooling1D()

    def losses() -> dict[str, Any]:
        pooled = pool(layer(X))
        return {"a": ops.mean(pooled**2), "b": ops.mean(pooled[1:])}

    return Use(losses, [layer.embeddings], "ab")


def half() -> Use:
    """What is looked up several times is added up in float32, and not in bfloat16."""
    layer = embedding(dtype="mixed_bfloat16")

    def losses() -> dict[str, Any]:
        found = ops.cast(layer(X), "float32")
        return two(found, found)

    return Use(losses, [layer.embeddings], "ab")


class OfAnother(layers.Embedding):
    """It looks up in what it has made of the table."""

    def call(self, inputs: Any) -> Any:
        return ops.take(2.0 * self.embeddings, inputs, axis=0)


class AndAdded(layers.Embedding):
    def call(self, inputs: Any) -> Any:
        return super().call(inputs) + ops.mean(self.embeddings, axis=0)


def own_call(kind: type) -> Use:
    layer = embedding(kind)
    return Use(lambda: two(layer(X), layer(X)), [layer.embeddings], "")


def lora() -> Use:
    layer = embedding()
    layer.enable_lora(2)
    layer.lora_embeddings_b.assign(np.ones(layer.lora_embeddings_b.shape, "float32"))
    return Use(lambda: two(layer(X), layer(X)), layer.trainable_variables, "")


def frozen() -> Use:
    layer, other = embedding(trainable=False), embedding()

    def losses() -> dict[str, Any]:
        found = layer(X) * other(X)
        return two(found, found)

    return Use(losses, [other.embeddings], "ab")


def taken() -> Use:
    variable = embedding().embeddings

    def losses() -> dict[str, Any]:
        return two(ops.take(variable, X, axis=0), ops.take(variable, X[::-1], axis=0))

    return Use(losses, [variable], "ab")


def indexed() -> Use:
    """As it is written in the framework itself. PyTorch has another operation for that."""
    variable, rows = embedding().embeddings, X % WORDS

    def losses() -> dict[str, Any]:
        plain = variable.value[rows] if BACKEND != "tensorflow" else ops.take(variable, rows, 0)
        return two(plain, plain)

    return Use(losses, [variable], "" if BACKEND == "torch" else "ab")


def columns() -> Use:
    variable = embedding().embeddings

    def losses() -> dict[str, Any]:
        found = ops.reshape(ops.take(variable, [0, 2, 2], axis=1)[:12], (4, 3, 3))
        return two(found, found)

    return Use(losses, [variable], "")


def worked_out_again() -> Use:
    """That is no lookup which can be seen, or which it would not cost as much to look at."""
    layer = embedding()

    def losses() -> dict[str, Any]:
        again = keras.remat(lambda rows: layer(rows) ** 2)
        return two(again(X), layer(X))

    return Use(losses, [layer.embeddings], "b")


def in_a_loop() -> Use:
    variable = embedding().embeddings

    def losses() -> dict[str, Any]:
        def body(total: Any, row: Any) -> tuple[Any, Any]:
            return total + ops.sum(ops.take(variable, row, axis=0) ** 2), total

        total, _ = ops.scan(body, ops.zeros(()), ops.convert_to_tensor(X % WORDS))
        found = ops.take(variable, X, axis=0)
        return {**two(found, found), "d": total}

    return Use(losses, [variable], "ab" if BACKEND == "jax" else "abd")


USES: dict[str, Callable[[], Use]] = {
    **{use.__name__: use for use in (once, three_times, by_one_only, tied, tied_by_keras)},
    **{use.__name__: use for use in (penalised, masked, half, lora, frozen, taken, indexed)},
    **{use.__name__: use for use in (columns, worked_out_again, in_a_loop)},
    "of_another": partial(own_call, OfAnother),
    "and_added": partial(own_call, AndAdded),
}


def compiled(function: Callable[[], Any]) -> Any:
    """What a function returns. On JAX as one programme: it has thousands of small operations."""
    if BACKEND != "jax":
        return function()
    import jax

    with keras.StatelessScope():
        return jax.jit(lambda: function())()  # traced anew every time


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its lookups are its own, here and there")
def test_every_use_has_the_dense_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, Gramian and update, and which rows are kept by entry."""
    uses = {name: make() for name, make in USES.items()}
    variables = [variable for use in uses.values() for variable in use.tables]
    first = {
        name: [id(v) for v in variables].index(id(use.tables[0])) for name, use in uses.items()
    }

    def losses() -> dict[str, Any]:
        return {f"{n}/{key}": v for n, use in uses.items() for key, v in use.losses().items()}

    method = pt.Chain(pt.Normalize(), pt.Sum())
    sparse_rows: list[str] = []
    shown = ("once/a", "three_times/d", "tied/d", "half/b")  # each takes its time to be compiled

    def found() -> tuple[Any, Any, Any]:
        grads = pt.gradients(losses, variables)
        rows = {name: grads[name] for name in grads.losses if name in shown}
        sparse_rows[:] = [
            name
            for row, name in zip(grads._rows, grads.losses, strict=True)
            if isinstance(row[first[name.split("/")[0]]], gathered.Gathered)
        ]
        return rows, grads.gramian, grads.combine(method)

    by_entry = compiled(found)
    assert sparse_rows == [f"{n}/{key}" for n, use in uses.items() for key in use.by_entry]
    monkeypatch.setattr(gathered, "WORTH", NEVER)
    dense = compiled(found)
    assert not sparse_rows
    names = [*by_entry[0]]
    pairs = {name: zip(by_entry[0][name], dense[0][name], strict=True) for name in names}
    pairs["gramian"] = zip(by_entry[1:2], dense[1:2], strict=True)
    pairs["update"] = zip(by_entry[2], dense[2], strict=True)
    for name, each in pairs.items():
        exact = name[:4] not in ("half", "gram", "upda")
        tolerance = (1e-5, 1e-6) if exact else (1e-2, 1e-3)
        for one, other in each:
            assert (one is None) == (other is None)
            if one is None:
                continue
            assert one.dtype == other.dtype
            one, other = (ops.convert_to_numpy(engine().dense(g)) for g in (one, other))
            np.testing.assert_allclose(one, other, *tolerance, err_msg=name)


# ------------------------------------------------------------------ methods, in a loop

METHODS = {
    "by variable": pt.Chain(pt.Clip(0.1), pt.PerVariable(pt.Normalize())),
    "coordinates": pt.TrimmedMean(),
    "random coordinates": pt.GradDrop(),
    "compressed": pt.IMTLG(),
    "memory": pt.DBMTL(),
}


class OneHot(layers.Embedding):
    """The same as a product, whose gradient is dense everywhere."""

    def call(self, inputs: Any) -> Any:
        hot = ops.one_hot(ops.mod(inputs, self.input_dim), self.input_dim)
        return ops.matmul(hot, self.embeddings)


def updates(kind: type) -> dict[str, Any]:
    """Those of each method, and of both halves of a batch apart."""
    shared, own = embedding(kind), embedding(kind)
    variables = [shared.embeddings, own.embeddings]
    combiners = {name: pt.Combiner(method, seed=1) for name, method in METHODS.items()}
    halves = pt.Combiner("modo")

    def losses() -> dict[str, Any]:
        found = two(shared(X), ops.tanh(shared(X[::-1])))
        return {**found, "own": ops.mean(own(X) * shared(X) ** 2)}

    def pairs() -> dict[str, Any]:
        return {
            "a": (ops.mean(shared(X[:2]) ** 2), ops.mean(shared(X[2:]) ** 2)),
            "own": (ops.mean(own(X[:2]) ** 3), ops.mean(own(X[2:]) * shared(X[:2]))),
        }

    def found() -> dict[str, Any]:
        grads, of_halves = pt.gradients(losses, variables), pt.gradients(pairs, variables)
        combined = {name: combiner(grads) for name, combiner in combiners.items()}
        return {**combined, "halves": halves(of_halves)}

    return compiled(found)


def test_every_method_makes_the_dense_update() -> None:
    by_entry, dense = updates(layers.Embedding), updates(OneHot)
    for name, update in by_entry.items():
        for one, other in zip(update, dense[name], strict=True):
            one, other = (ops.convert_to_numpy(engine().dense(g)) for g in (one, other))
            if name == "random coordinates" and BACKEND == "tensorflow":
                continue  # as many numbers are drawn as there are coordinates
            np.testing.assert_allclose(one, other, 1e-4, 1e-6, err_msg=name)


# ------------------------------------------------------------------ fit

MANY, WIDE = 1009, 7  # of a table that nothing else has the shape of
EAGER = BACKEND == "tensorflow"  # what compiles there is in tests/engines/test_sparse.py


def model_of(tasks: int = 4, kind: type = layers.Embedding, **told: Any) -> pt.Model:
    """Two tables, one of which is penalised, and one read by the first task alone."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,), dtype="int32")
    shared = kind(MANY, WIDE, name="shared")(inputs)
    own = kind(MANY - 1, WIDE, embeddings_regularizer=keras.regularizers.L2(1e-3), name="own")
    hidden = layers.Dense(4, activation="tanh")(layers.Flatten()(shared))
    first = layers.Concatenate()([hidden, layers.Flatten()(own(inputs))])
    heads = {
        f"t{task}": layers.Dense(1, name=f"t{task}")(hidden if task else first)
        for task in range(tasks)
    }
    model = pt.Model(inputs, heads)
    method = pt.Chain(pt.Normalize(), pt.Sum())
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    model.compile(
        optimizer, dict.fromkeys(heads, "mse"), combine=method, verbose=0, run_eagerly=EAGER, **told
    )
    return model


def data_for(tasks: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """With a label missing here and there."""
    rng = np.random.default_rng(0)
    x = rng.integers(MANY - 1, size=(8, 3))
    x[:, 1] = x[0, 0]
    y = {f"t{task}": rng.normal(size=(8, 1)).astype("float32") for task in range(tasks)}
    y["t1"][::2] = np.nan
    y["t1"][4:] = np.nan
    return x, y


def programme(model: pt.Model, data: Any) -> str:
    """That of a step on JAX, before anything is optimised."""
    import jax

    groups: list[Any] = [
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    ]
    state = tuple([variable.value for variable in group] for group in groups)
    return jax.jit(model.train_step, donate_argnums=0).lower(state, data).as_text()


def tables_made(model: pt.Model, data: Any) -> int:
    """How many arrays of the shape of the shared table a step makes."""
    if BACKEND == "jax":
        return programme(model, data).count(f"-> tensor<{MANY}x{WIDE}xf32>")
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    held = {variable.value.data_ptr() for variable in model.variables}

    class Noting(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found = func(*args, **(kwargs or {}))
            for each in keras.tree.flatten(found):
                if torch.is_tensor(each) and tuple(each.shape) == (MANY, WIDE):
                    self.made += each.data_ptr() not in held  # another one, and no view
            return found

    with Noting() as noting:
        model.train_on_batch(*data)
    return noting.made


class Trained(NamedTuple):
    """weights after a `fit`;  tables  of the shape of the shared one that a further step makes"""

    weights: list[np.ndarray]
    tables: int | None


@pytest.fixture(scope="module")
def trained() -> dict[str, Trained]:
    """By name of the way."""
    ways: dict[str, dict[str, Any]] = {
        "by entry": {},
        "two tasks": {"tasks": 2},
        "low memory": {"memory": "low"},
        "dense": {"kind": OneHot},
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathered, "WORTH", ALWAYS)
        for way, told in ways.items():
            model = model_of(**told)
            data = data_for(len(model.output_names))
            model.fit(*data, batch_size=4, epochs=2, shuffle=False, verbose=0)
            weights = model.get_weights()
            tables = None if BACKEND == "tensorflow" else tables_made(model, data)
            found[way] = Trained(weights, tables)
    return found


@pytest.mark.parametrize("way", ["by entry", "low memory"])
def test_fit_makes_the_dense_update(trained: dict[str, Trained], way: str) -> None:
    for one, other in zip(trained[way].weights, trained["dense"].weights, strict=True):
        np.testing.assert_allclose(one, other, 1e-3, 1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="tests/engines/test_sparse.py")
def test_no_row_is_as_large_as_its_table(trained: dict[str, Trained]) -> None:
    """There are as many tables for four objectives as for two."""
    tables = {way: each.tables for way, each in trained.items()}
    print(tables)
    assert tables["by entry"] == tables["two tasks"] == tables["low memory"] < tables["dense"]


# ------------------------------------------------------------------ PyTorch's own

MODULES: dict[str, tuple[dict[str, Any], bool]] = {  # whether gradients are kept by entry
    "padding": ({"padding_idx": 3}, True),
    "padding from the end": ({"padding_idx": -1}, True),
    "sparse": ({"sparse": True}, True),
    "norm": ({"max_norm": 0.5}, True),
    "by frequency": ({"scale_grad_by_freq": True}, False),
}


@pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch")
@pytest.mark.parametrize("name", MODULES)
def test_modules_of_pytorch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    settings, by_entry = MODULES[name]
    module = torch.nn.Embedding(WORDS, WIDTH, **settings)
    rows = torch.tensor(X % WORDS)

    def losses() -> dict[str, Any]:
        return two(module(rows), module(rows))

    sparse = pt.gradients(losses, module)
    assert isinstance(sparse._rows[0][0], gathered.Gathered) == by_entry
    monkeypatch.setattr(gathered, "WORTH", NEVER)
    dense = pt.gradients(losses, module)
    for one, other in zip(sparse.combine("mgda"), dense.combine("mgda"), strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-7)
    np.testing.assert_allclose(sparse["b"][0], dense["b"][0], 1e-5, 1e-7)


@pytest.mark.skipif(BACKEND != "torch", reason="a graph is searched there in every step")
def test_graphs_are_not_searched_again_for_what_is_no_table() -> None:
    from polytape.engines.torch import lookups

    before = len(lookups._no_tables)
    table = embedding().embeddings
    kernels = [keras.Variable(np.eye(3, dtype="float32"))]

    def losses() -> dict[str, Any]:
        found = ops.take(table, X, axis=0)
        return two(ops.matmul(found, kernels[0]), found)

    for _ in range(2):
        pt.gradients(losses, [*kernels, table])
        assert len(lookups._no_tables) == before + 1
    kernels.clear()
    assert len(lookups._no_tables) == before
