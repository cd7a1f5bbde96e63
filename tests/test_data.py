"""One data set out of several, on every backend."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

zip_objectives = pt.data.zip_objectives
BACKEND = keras.backend.backend()


def arrays(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples that say which they are."""
    x = np.arange(first, first + count, dtype="float32")[:, None]
    return x, -x


def seen(batches: Any, name: str = "a") -> list[float]:
    """The samples of an epoch, in their order."""
    return [float(v) for x, *_ in batches for v in np.asarray(x[name]).reshape(-1)]


class Rows(keras.utils.PyDataset):
    """Batches of two samples."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.epochs = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return arrays(2, 2 * index)

    def on_epoch_end(self) -> None:
        self.epochs += 1


class Stored:
    """Batches that come again, of no framework."""

    def __init__(self, count: int) -> None:
        self.count, self.open = count, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        self.open += 1
        return (arrays(2, 2 * k) for k in range(self.count))


def generate() -> Any:
    return iter(Stored(3))


def test_every_source_has_its_batch_size_and_the_shorter_start_again() -> None:
    data = zip_objectives({"a": arrays(10), "b": arrays(3)}, batch_size={"a": 3, "b": 2}, seed=0)
    assert len(data) == 4
    batches = list(data)
    assert [len(x["a"]) for x, _ in batches] == [3, 3, 3, 1]
    assert [len(x["b"]) for x, _ in batches] == [2, 1, 2, 1]
    assert sorted(seen(batches)) == list(range(10))
    assert sorted(seen(batches, "b")) == [0, 0, 1, 1, 2, 2]
    for x, y in batches:
        assert all((y[name] == -x[name]).all() for name in "ab")


def test_with_the_shortest_the_others_go_on_in_the_next_epoch() -> None:
    sources = {"a": arrays(10), "b": arrays(3)}
    data = zip_objectives(sources, batch_size=1, stop="shortest", shuffle=False)
    assert len(data) == 3
    assert [seen(data) for _ in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1]]
    assert len(zip_objectives({"a": generate}, stop=5)) == 5


def test_the_seed_settles_the_order_and_every_round_has_its_own() -> None:
    sources = {"a": arrays(20), "b": arrays(20)}
    first, same, other = (zip_objectives(sources, batch_size=5, seed=seed) for seed in (1, 1, 2))
    epochs = [seen(first), seen(first)]
    assert [seen(same), seen(same)] == epochs
    assert epochs[0] != epochs[1]
    assert seen(other) != epochs[0]
    batches = list(first)
    assert seen(batches) != seen(batches, "b")
    keras.utils.set_random_seed(3)
    drawn = seen(zip_objectives(sources))
    keras.utils.set_random_seed(3)
    assert seen(zip_objectives(sources)) == drawn
    assert seen(zip_objectives(sources)) != drawn


def test_weights_of_one_source_are_ones_for_the_others() -> None:
    weight = np.full(4, 0.5, "float32")
    data = zip_objectives({"a": (*arrays(4), weight), "b": arrays(2)}, batch_size=2)
    for _, _, weights in data:
        np.testing.assert_array_equal(weights["a"], [0.5, 0.5])
        np.testing.assert_array_equal(weights["b"], [1, 1])


def test_targets_may_be_missing_and_nests_and_other_types_stay() -> None:
    x = {"image": np.zeros((4, 2, 2), "uint8"), "words": (np.arange(4), np.zeros((4, 1)))}
    data = zip_objectives({"a": x, "b": (np.ones((4, 1)), [0, 1, 0, 1])}, batch_size=4)
    (batch, targets) = next(iter(data))
    assert batch["a"]["image"].dtype == "uint8"
    assert batch["a"]["words"][1].dtype == keras.config.floatx()
    assert list(targets) == ["b"]
    assert targets["b"].dtype.kind == "i"
    assert len(next(iter(zip_objectives({"a": x})))) == 1


def test_sequences_are_padded_to_the_longest_of_their_batch() -> None:
    x = [np.full((n, 2), n) for n in (3, 1, 5, 2)]
    y = [np.arange(n) for n in (3, 1, 5, 2)]
    weight = [np.ones(n) for n in (3, 1, 5, 2)]
    options = {"batch_size": 2, "shuffle": False, "padding": -1}
    first, second = zip_objectives({"a": (x, y, weight)}, **options)
    assert [batch["a"].shape for batch in (first[0], second[0])] == [(2, 3, 2), (2, 5, 2)]
    np.testing.assert_array_equal(first[0]["a"][1], [[1, 1], [-1, -1], [-1, -1]])
    np.testing.assert_array_equal(first[1]["a"], [[0, 1, 2], [0, np.nan, np.nan]])
    np.testing.assert_array_equal(first[2]["a"], [[1, 1, 1], [1, 0, 0]])
    data = zip_objectives({"a": (x, y)}, multiple=4, **options)
    assert [batch[0]["a"].shape[1] for batch in data] == [4, 8]


@pytest.mark.parametrize("source", [Rows(3), Stored(3), list(Stored(3)), generate])
def test_batches_of_any_kind(source: Any) -> None:
    data = zip_objectives({"a": source, "b": arrays(9)}, batch_size=3, stop=3)
    for _ in range(2):
        assert seen(data) == [0, 1, 2, 3, 4, 5]


def test_data_sets_of_keras_hear_of_their_epochs() -> None:
    source = Rows(2)
    data = zip_objectives({"a": source}, stop=5)
    assert seen(data) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert source.epochs == 2


def test_long_sources_are_not_held() -> None:
    open_ended = zip_objectives({"a": lambda: (arrays(1, k) for k in itertools.count())}, stop=2)
    assert [seen(open_ended), seen(open_ended)] == [[0, 1], [2, 3]]


def frameworks() -> dict[str, Any]:
    found: dict[str, Any] = {"PyDataset": Rows(3), "iterable": Stored(3), "function": generate}
    x, y = arrays(6)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        found["tf.data"] = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    if BACKEND == "torch":
        import torch

        rows = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        found["DataLoader"] = torch.utils.data.DataLoader(rows, batch_size=2)
    return found


class Recorder(keras.Model):
    """Two heads, which have inputs of their own, and the sums of what each was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = {name: keras.layers.Dense(1, name=name) for name in "ab"}
        self.totals = {name: self.add_weight((), "zeros", trainable=False) for name in "ab"}

    def call(self, inputs: Any, training: bool = False) -> Any:
        for name in inputs if training else ():
            self.totals[name].assign_add(ops.sum(inputs[name][:, 0]))
        return {name: self.heads[name](inputs[name]) for name in inputs}

    def taken(self) -> list[float]:
        found = [float(ops.convert_to_numpy(self.totals[name])) for name in "ab"]
        for total in self.totals.values():
            total.assign(0.0)
        return found


@pytest.mark.engine
@pytest.mark.parametrize("kind", frameworks())
def test_an_epoch_of_fit_takes_every_batch_once(kind: str) -> None:
    source = frameworks()[kind]
    # 0..9 in batches of 4, 4 and 2; and 0..5 in three batches of two
    sources = {"a": arrays(10), "b": source}
    data = zip_objectives(sources, batch_size=4, stop=3, seed=0)
    for _ in range(2):
        model = Recorder()
        model.compile("sgd", loss=dict.fromkeys("ab", "mse"))
        for epochs in (1, 2):
            model.fit(data, epochs=epochs, verbose=0)
            assert model.taken() == [45 * epochs, 15 * epochs]
        model.evaluate(data, verbose=0)


@pytest.mark.engine
def test_epochs_of_one_step_go_on() -> None:
    data = zip_objectives({"a": arrays(8), "b": arrays(8)}, batch_size=2, shuffle=False)
    model = Recorder()
    model.compile("sgd", loss=dict.fromkeys("ab", "mse"))
    model.fit(data, epochs=3, steps_per_epoch=1, verbose=0)
    assert model.taken()[0] >= 0 + 1 + 2 + 3


@pytest.mark.engine
def test_fit_on_sequences_of_every_length_with_weights() -> None:
    rng = np.random.default_rng(0)
    words = [rng.integers(1, 9, n) for n in (3, 3, 3, 3, 5, 2, 7, 1)]
    sources = {
        "a": (words, np.ones((8, 1), "float32"), np.ones(8, "float32")),
        "b": ([np.ones((n, 2), "float32") for n in (2, 4, 3)], np.ones((3, 1), "float32")),
    }
    inputs = {
        "a": keras.Input((None,), dtype="int32", name="a"),
        "b": keras.Input((None, 2), name="b"),
    }
    embedded = keras.layers.Embedding(9, 2, mask_zero=True)(inputs["a"])
    masked = keras.layers.Masking()(inputs["b"])
    pooled = {"a": embedded, "b": masked}
    outputs = {
        name: keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(value))
        for name, value in pooled.items()
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss=dict.fromkeys("ab", "mse"))
    data = zip_objectives(sources, batch_size=2, shuffle=False)
    history = model.fit(data, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[1] < history[0]


class Nothing:
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("sources", "options", "error", "message"),
    [
        ([arrays(3)], {}, TypeError, "takes a dict"),
        ({}, {}, TypeError, "takes a dict"),
        ({"a": 3}, {"stop": 1}, TypeError, r"'a' is neither.*PyDataset.*Received: int 3"),
        ({"a": list(arrays(3))}, {}, TypeError, "A list is one of batches; arrays go in a tuple"),
        ({"a": ("x", "y")}, {}, TypeError, "hold something else"),
        ({"a": (arrays(3)[0], arrays(4)[1])}, {}, ValueError, r"'a' need the same.*3, 4 samples"),
        ({"a": arrays(0)}, {}, ValueError, "one at least. Received: 0"),
        ({"a": (*arrays(3), None, None)}, {}, ValueError, "a tuple of 4"),
        ({"a": ([np.ones((2, 2)), np.ones((2, 3))],)}, {}, ValueError, "first axis only"),
        ({"a": []}, {}, ValueError, "'a' is empty"),
        ({"a": generate()}, {"stop": 1}, ValueError, "used up after one round.*function itself"),
        ({"a": generate}, {}, ValueError, r"'a' has is not known.*stop=100"),
        ({"a": arrays(3)}, {"stop": "first"}, ValueError, "Received: 'first'"),
        ({"a": arrays(3)}, {"stop": 0}, ValueError, "above 0. Received: 0"),
        ({"task": arrays(3)}, {"batch_size": {"tsk": 2}}, ValueError, "Did you mean 'task'"),
        ({"a": arrays(3)}, {"batch_size": 0}, ValueError, "Received: 0 for 'a'"),
    ],
)
def test_refusals(sources: Any, options: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        zip_objectives(sources, **options)


def test_a_source_that_turns_out_to_be_empty() -> None:
    data = zip_objectives({"a": Nothing()}, stop=1)
    with pytest.raises(ValueError, match="'a' has no batches"):
        next(iter(data))
