"""`pt.gradients` against differences in float64, and who reaches what."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled

Array = np.ndarray
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 2))
SHAPES = [(3, 4), (4,), (4, 2), (2,), (4, 1)]
VALUES = [RNG.normal(size=shape) for shape in SHAPES]


def losses_of(values: list, x: object, y: object, m: object = np) -> dict[str, object]:
    """Two heads on a hidden layer, and a loss that reads the layer itself; `m` is NumPy or ops."""
    w, b, first, shift, second = values
    hidden = m.tanh(m.matmul(x, w) + b)
    fit = m.matmul(hidden, first) + shift
    other = m.sin(m.matmul(hidden, second))
    return {
        "fit": m.mean(m.square(fit - y)),
        "other": 2.0 * m.mean(m.exp(other)),
        "sparse": 0.1 * m.mean(m.sqrt(m.square(hidden) + 0.1)),
    }


def differences(name: str, h: float = 1e-6) -> list[Array]:
    """Central differences of one loss by every entry of every variable, float64."""
    found = []
    for v, value in enumerate(VALUES):
        slope = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            pair = []
            for sign in (1, -1):
                moved = [array.copy() for array in VALUES]
                moved[v][index] += sign * h
                pair.append(losses_of(moved, X, Y)[name])
            slope[index] = (pair[0] - pair[1]) / (2 * h)
        found.append(slope)
    return found


@pytest.fixture(scope="module")
def variables() -> list[keras.Variable]:
    return [keras.Variable(value.astype("float32"), name=f"v{i}") for i, value in enumerate(VALUES)]


@pytest.fixture(scope="module")
def grads(variables: list[keras.Variable]) -> pt.Gradients:
    x, y = ops.convert_to_tensor(X, "float32"), ops.convert_to_tensor(Y, "float32")
    return pt.gradients(lambda: losses_of(variables, x, y, ops), variables)


@pytest.mark.parametrize("name", ["fit", "other", "sparse"])
def test_rows_equal_differences(grads: pt.Gradients, name: str) -> None:
    for row, slope in zip(grads[name], differences(name), strict=True):
        if row is None:
            assert not slope.any()
        else:
            np.testing.assert_allclose(ops.convert_to_numpy(row), slope, rtol=1e-4, atol=1e-6)


def test_gramian_norms_and_cosines_are_those_of_the_shared_rows(grads: pt.Gradients) -> None:
    rows = [np.concatenate([part.ravel() for part in differences(n)[:2]]) for n in grads.losses]
    jacobian = np.stack(rows)
    gramian = jacobian @ jacobian.T
    norms = np.linalg.norm(jacobian, axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(grads.gramian), gramian, rtol=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(grads.norms), norms, rtol=1e-4)
    cosines = gramian / np.outer(norms, norms)
    np.testing.assert_allclose(ops.convert_to_numpy(grads.cosines), cosines, rtol=1e-3, atol=1e-5)
    assert grads.connectivity.shared == (0, 1)
    assert grads.connectivity.private == {2: 0, 3: 0, 4: 1}


def test_losses_are_the_values(grads: pt.Gradients) -> None:
    expected = losses_of(VALUES, X, Y)
    for name, loss in grads.losses.items():
        np.testing.assert_allclose(float(loss), expected[name], rtol=1e-5)


def test_unknown_objective_is_named(grads: pt.Gradients) -> None:
    with pytest.raises(KeyError, match=r"No objective 'fitt'. Objectives: fit, other, sparse"):
        grads["fitt"]


def test_paths_that_end_do_not_count() -> None:
    u, v, idle = (keras.Variable([1.0, 2.0, 0.5], name=name) for name in ("u", "v", "idle"))

    def losses() -> dict[str, object]:
        picked = ops.cast(ops.argmax(v), "float32")
        return {
            "a": ops.sum(u * ops.stop_gradient(v)),
            "b": ops.sum(v) * picked,
            "c": ops.sum(u) + ops.sum(ops.where(v > 1.0, u * 1.0, u * 0.0)),
        }

    grads = pt.gradients(losses, [u, v, idle])
    expected = [[True, False, False], [False, True, False], [True, False, False]]
    np.testing.assert_array_equal(grads.connectivity.reach, expected)
    assert grads.connectivity.shared == (0,)
    assert grads.connectivity.private == {1: 1}
    update = pt.Combiner("sum")(grads)
    assert update[2] is None
    np.testing.assert_allclose(ops.convert_to_numpy(update[1]), [1.0, 1.0, 1.0])


def test_zero_by_number_is_a_path() -> None:
    u = keras.Variable([-1.0, -2.0])
    grads = pt.gradients(lambda: {"dead": ops.sum(ops.relu(u)), "live": ops.sum(u)}, [u])
    assert grads.connectivity.reach.all()
    np.testing.assert_array_equal(ops.convert_to_numpy(grads["dead"][0]), [0.0, 0.0])
    np.testing.assert_allclose(ops.convert_to_numpy(grads.cosines), [[0, 0], [0, 1]], rtol=1e-6)


def test_through_a_recurrent_layer_and_a_shared_embedding() -> None:
    keras.utils.set_random_seed(0)
    table, lstm, head = keras.layers.Embedding(5, 3), keras.layers.LSTM(2), keras.layers.Dense(1)
    tokens = np.array([[0, 1, 1], [4, 2, 0]])
    head(lstm(table(tokens)))
    variables = [*table.trainable_variables, *lstm.trainable_variables, *head.trainable_variables]

    def losses() -> dict[str, object]:
        codes = table(tokens)
        return {"head": ops.mean(head(lstm(codes))), "codes": ops.mean(codes**2)}

    reach = pt.gradients(losses, variables).connectivity.reach
    np.testing.assert_array_equal(reach, [[True] * 6, [True] + [False] * 5])


def test_half_precision_rows_are_measured_in_single() -> None:
    big = keras.Variable([200.0, 200.0], dtype="float16")
    losses = {"a": 2.0, "b": 1.0}
    grads = pt.gradients(
        lambda: {n: ops.sum(big * big * s) / 400.0 for n, s in losses.items()}, [big]
    )
    assert keras.backend.standardize_dtype(grads["a"][0].dtype) == "float16"
    assert keras.backend.standardize_dtype(grads.gramian.dtype) == "float32"
    rows = np.array([ops.convert_to_numpy(grads[n][0]).astype("float64") for n in losses])
    np.testing.assert_allclose(ops.convert_to_numpy(grads.gramian), rows @ rows.T, rtol=1e-3)
    (update,) = pt.Combiner("mgda")(grads)
    assert keras.backend.standardize_dtype(update.dtype) == "float16"


def test_gramian_of_half_precision_rows_does_not_overflow() -> None:
    wide = keras.Variable(np.ones(50), dtype="float16")
    grads = pt.gradients(lambda: {"a": ops.sum(wide * 400.0) / 1.0, "b": ops.sum(wide)}, [wide])
    expected = [[50 * 400.0**2, 50 * 400.0], [50 * 400.0, 50.0]]
    np.testing.assert_allclose(ops.convert_to_numpy(grads.gramian), expected, rtol=1e-6)


def test_inside_a_compiled_step_of_ones_own(variables: list[keras.Variable]) -> None:
    x, y = ops.convert_to_tensor(X, "float32"), ops.convert_to_tensor(Y, "float32")
    eager = pt.Combiner("pcgrad")(pt.gradients(lambda: losses_of(variables, x, y, ops), variables))
    combiner = pt.Combiner("pcgrad")
    combiner.prepare(["fit", "other", "sparse"], variables)
    state = [*variables, *combiner.variables]

    def step(values: list) -> tuple[list, list]:
        if keras.backend.backend() != "jax":
            found = pt.gradients(lambda: losses_of(variables, x, y, ops), variables)
            return combiner(found), [v.value for v in state]
        with keras.StatelessScope(list(zip(state, values, strict=True))) as scope:
            found = pt.gradients(lambda: losses_of(variables, x, y, ops), variables)
            update = combiner(found)
        return update, [scope.get_current_value(v) for v in state]

    update, after = compiled(step, xla=False)([v.value for v in state])
    for one, other in zip(update, eager, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-4, atol=1e-6
        )
    assert int(after[len(variables)]) == 1  # the step count came out of the scope


def norm_and_dropout() -> tuple[keras.Model, list]:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(4)(inputs))
    hidden = keras.layers.Dropout(0.5)(hidden)
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def test_statistics_and_seeds_move_once() -> None:
    one, other = norm_and_dropout(), norm_and_dropout()
    x = X.astype("float32")
    other(x, training=True)

    def losses() -> dict[str, object]:
        out = one(x, training=True)
        return {"a": ops.mean(out[:, 0] ** 2), "b": ops.mean(out[:, 1]), "c": ops.mean(out)}

    pt.gradients(losses, one.trainable_variables)
    for mine, theirs in zip(
        one.non_trainable_variables, other.non_trainable_variables, strict=True
    ):
        assert mine.path.split("/")[-1] == theirs.path.split("/")[-1]
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mine.value), ops.convert_to_numpy(theirs.value)
        )
