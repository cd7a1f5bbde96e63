"""Embedding gradients on TensorFlow: rows of the batch, never of the table."""

import keras
import numpy as np
import pytest

import polytape as pt

if keras.backend.backend() != "tensorflow":
    pytest.skip("only TensorFlow has sparse gradients", allow_module_level=True)
import tensorflow as tf

TOKENS = np.array([[0, 3, 3], [3, 9, 1]])
METHODS = ["sum", "pcgrad", "graddrop", pt.PerVariable(pt.Normalize())]


@pytest.fixture(scope="module")
def table() -> keras.layers.Embedding:
    keras.utils.set_random_seed(0)
    layer = keras.layers.Embedding(10, 4)
    layer.build(None)
    return layer


def losses(table: keras.layers.Embedding, dense: bool) -> dict[str, tf.Tensor]:
    """Three objectives over different tokens; `dense` looks up by a product with one-hot rows."""

    def look_up(tokens: np.ndarray) -> tf.Tensor:
        if dense:
            return tf.tensordot(tf.one_hot(tokens, 10), table.embeddings.value, 1)
        return table(tokens)

    return {
        "a": tf.reduce_mean(look_up(TOKENS) ** 2),
        "b": tf.reduce_mean(tf.sin(look_up(TOKENS[0]) * 3.0)),
        "c": -tf.reduce_mean(look_up(TOKENS[1:])),
    }


def dense(gradient: object) -> np.ndarray:
    return np.array(tf.convert_to_tensor(gradient))


def test_rows_and_updates_stay_sparse(table: keras.layers.Embedding) -> None:
    grads = pt.gradients(lambda: losses(table, False), table.trainable_variables)
    assert all(isinstance(grads[name][0], tf.IndexedSlices) for name in "abc")
    (update,) = pt.Combiner("pcgrad")(grads)
    assert isinstance(update, tf.IndexedSlices)
    assert update.values.shape[0] == TOKENS.size + 3 + 3
    assert {int(i) for i in update.indices} == {0, 1, 3, 9}


def test_gramian_equals_the_dense_one(table: keras.layers.Embedding) -> None:
    sparse, full = (
        pt.gradients(lambda d=d: losses(table, d), table.trainable_variables) for d in (False, True)
    )
    np.testing.assert_allclose(sparse.gramian, full.gramian, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("xla", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_update_equals_the_dense_one(
    table: keras.layers.Embedding, method: object, xla: bool
) -> None:
    found = []
    for full in (False, True):
        combiner = pt.Combiner(method)
        combiner.prepare([*"abc"], table.trainable_variables)

        def step(full: bool = full, combiner: pt.Combiner = combiner) -> tf.Tensor:
            grads = pt.gradients(lambda: losses(table, full), table.trainable_variables)
            return tf.convert_to_tensor(combiner(grads)[0])

        found.append(dense((tf.function(step, jit_compile=True) if xla else step)()))
    if method == "graddrop":  # the coin of each coordinate is drawn in another order
        untouched = np.setdiff1d(np.arange(10), TOKENS)
        assert not found[0][untouched].any()
        return
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_one_sparse_and_one_dense_row(table: keras.layers.Embedding) -> None:
    def both() -> dict[str, tf.Tensor]:
        return {
            "look up": tf.reduce_sum(table(TOKENS)),
            "decay": tf.reduce_sum(table.embeddings.value),
        }

    grads = pt.gradients(both, table.trainable_variables)
    counts = np.bincount(TOKENS.ravel(), minlength=10)
    np.testing.assert_allclose(grads.gramian, [[4 * (counts**2).sum(), 24], [24, 40]])
    (update,) = pt.Combiner("sum")(grads)
    np.testing.assert_allclose(dense(update), np.repeat(counts[:, None] + 1.0, 4, axis=1))
