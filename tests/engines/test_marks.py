"""`pt.gradients(measure="features")`: gradients by marked tensors, one pass for the variables."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled
from polytape.engines import engine
from two_layers import HEADS, SIZES, TRUNK, X, Y, by_hand, gramian, min_norm


@pytest.fixture(scope="module")
def variables() -> list[keras.Variable]:
    return [keras.Variable(value) for value in (TRUNK, *HEADS.values())]


def losses_of(variables: list, marked: bool = True, names: str = "ab") -> dict[str, object]:
    trunk, *heads = (ops.convert_to_tensor(variable) for variable in variables)
    hidden = ops.matmul(X, trunk)
    if marked:
        hidden = pt.Features()(hidden)
    pairs = zip(names, heads, strict=True)
    errors = {n: ops.subtract(ops.matmul(hidden, head), Y[n]) for n, head in pairs}
    return {n: SIZES[n] * ops.mean(error**2) for n, error in errors.items()}


def expected() -> tuple[np.ndarray, list[np.ndarray]]:
    """Gramian at the features, and MGDA-UB's update: the shared trunk, then each its own head."""
    features, own, _ = by_hand(TRUNK, HEADS)
    products = gramian(features)
    weights = 2 * min_norm(products)
    combined = sum(w * row for w, row in zip(weights, features, strict=True))
    return products, [X.T @ combined, *own]


def assert_close(found: list, wanted: list) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=2e-4, atol=1e-5)


def test_gramian_and_update_equal_those_by_hand(variables: list) -> None:
    grads = pt.gradients(lambda: losses_of(variables), variables, measure="features")
    products, update = expected()
    assert_close([grads.gramian], [products])
    assert_close([grads.norms], [np.sqrt(np.diag(products))])
    assert grads.connectivity.private == {1: 0, 2: 1}
    assert_close(pt.Combiner("mgda")(grads), update)
    _, own, _ = by_hand(TRUNK, HEADS)
    assert_close([grads["a"][1]], [own[0]])
    assert grads["a"][2] is None
    with pytest.raises(KeyError, match=r"No objective 'c'. Objectives: a, b"):
        grads["c"]


@pytest.mark.parametrize("private", ["weighted", "joint"])
def test_private_variables_with_the_combined_weight(variables: list, private: str) -> None:
    grads = pt.gradients(lambda: losses_of(variables), variables, measure="features")
    products, update = expected()
    weights = 2 * min_norm(products)
    update[1:] = [w * own for w, own in zip(weights, update[1:], strict=True)]
    assert_close(pt.Combiner("mgda", private=private)(grads), update)


def test_inside_a_compiled_step(variables: list) -> None:
    combiner = pt.Combiner("mgda")
    combiner.prepare(["a", "b"], variables)

    def step(values: list) -> list:
        if keras.backend.backend() != "jax":
            grads = pt.gradients(lambda: losses_of(variables), variables, measure="features")
            return combiner(grads)
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            grads = pt.gradients(lambda: losses_of(variables), variables, measure="features")
            return combiner(grads)

    found = compiled(step, xla=False)([variable.value for variable in variables])
    assert_close(found, expected()[1])


def test_rows_are_the_concatenation_over_all_marks() -> None:
    u = keras.Variable([1.0, 2.0])
    layer = pt.Features()

    def losses() -> dict[str, object]:
        one, two = layer(u * 2.0), layer(u[:1] * 3.0)
        return {"a": ops.sum(one) + 5.0 * ops.sum(two), "b": one[0] * 4.0}

    grads = pt.gradients(losses, [u], measure="features")
    assert_close([grads.gramian], [[[1 + 1 + 25, 4], [4, 16]]])
    assert_close(pt.Combiner("sum")(grads), [[2 + 15 + 8, 2]])


def test_only_what_is_behind_the_mark_counts() -> None:
    u = keras.Variable([1.0, 2.0])

    def losses() -> dict[str, object]:
        before = u * 2.0
        after = pt.Features()(before)
        return {"a": ops.sum(after) + 7.0 * ops.sum(before), "b": ops.sum(after * after)}

    grads = pt.gradients(losses, [u], measure="features")
    assert_close([grads.gramian], [[[2.0, 12.0], [12.0, 80.0]]])
    assert_close(pt.Combiner("sum")(grads), [[2 * 8 + 8, 2 * 8 + 16]])


def test_features_that_no_variable_reaches_are_measured() -> None:
    u, v = keras.Variable(3.0), keras.Variable(5.0)

    def losses() -> dict[str, object]:
        frozen = pt.Features()(ops.convert_to_tensor([1.0, 1.0]))
        return {"a": ops.sum(frozen) * u, "b": frozen[0] * v}

    grads = pt.gradients(losses, [u, v], measure="features")
    assert_close([grads.gramian], [[[18.0, 15.0], [15.0, 25.0]]])


def test_an_objective_that_is_not_finite_is_left_out(variables: list) -> None:
    def losses() -> dict[str, object]:
        found = losses_of(variables)
        return {**found, "b": found["b"] * float("nan")}

    update = pt.Combiner("mgda")(pt.gradients(losses, variables, measure="features"))
    features, own, _ = by_hand(TRUNK, HEADS)
    assert_close(update, [X.T @ features[0], own[0], np.zeros((3, 1))])


def test_a_gradient_that_breaks_before_the_mark_is_left_out() -> None:
    u, v = keras.Variable([0.0, 2.0]), keras.Variable([1.0, 1.0])

    def losses() -> dict[str, object]:
        root, plain = pt.Features()(ops.sqrt(u)), pt.Features()(v * 1.0)
        return {"a": ops.sum(root * 0.0), "b": ops.sum(plain) + ops.sum(u)}

    update = pt.Combiner("sum")(pt.gradients(losses, [u, v], measure="features"))
    assert_close(update, [[1.0, 1.0], [1.0, 1.0]])
    update = pt.Combiner(pt.Normalize())(pt.gradients(losses, [u, v], measure="features"))
    assert_close(update, [[0.5**0.5] * 2, [1.0, 1.0]])


def test_a_mark_without_a_listener_is_an_identity(variables: list) -> None:
    plain = pt.gradients(lambda: losses_of(variables, False), variables)
    marked = pt.gradients(lambda: losses_of(variables), variables)
    assert_close([marked.gramian], [ops.convert_to_numpy(plain.gramian)])
    layer = pt.Features(name="shared")
    again = pt.Features.from_config(layer.get_config())
    assert again.name == "shared"
    np.testing.assert_array_equal(ops.convert_to_numpy(again(X)), X)


def test_statistics_move_once() -> None:
    norm = keras.layers.BatchNormalization()
    norm.build((None, 4))

    def losses() -> dict[str, object]:
        hidden = pt.Features()(norm(X, training=True))
        return {"a": ops.mean(hidden**2), "b": ops.mean(hidden)}

    pt.gradients(losses, norm.trainable_variables, measure="features")
    moved = ops.convert_to_numpy(norm.moving_mean.value)
    np.testing.assert_allclose(moved, 0.01 * X.mean(axis=0), rtol=1e-4, atol=1e-7)


def test_reach_is_that_of_the_gradients(variables: list) -> None:
    u = keras.Variable([1.0, 2.0])

    def forward() -> tuple[list, None]:
        found = losses_of(variables)
        stopped = found["b"] + ops.sum(ops.stop_gradient(u)) + ops.cast(ops.argmax(u), "float32")
        return [found["a"], stopped, ops.sum(ops.abs(u)) + found["a"], ops.ones(())], None

    everything = [*variables, u]
    recording = engine().record(forward, lambda: everything)
    rows = [recording.vjp({t: 1.0}, range(len(everything))) for t in range(4)]
    wanted = np.array([[gradient is not None for gradient in row] for row in rows])
    np.testing.assert_array_equal(recording.reach(range(4)), wanted)
    assert wanted.tolist()[1] == [True, False, True, False]


def test_refusals(variables: list) -> None:
    with pytest.raises(ValueError, match=r'"parameters" or "features".*Received: \'outputs\''):
        pt.gradients(lambda: losses_of(variables), variables, measure="outputs")
    with pytest.raises(ValueError, match=r"found no marked tensor.*h = pt.Features\(\)\(h\)"):
        pt.gradients(lambda: losses_of(variables, False), variables, measure="features")
    with pytest.raises(ValueError, match=r"pt.gradients got no variables"):
        pt.gradients(lambda: losses_of(variables), [], measure="features")

    def around() -> dict[str, object]:
        return {**losses_of(variables), "c": ops.sum(ops.convert_to_tensor(variables[0]))}

    with pytest.raises(ValueError, match=r"'c' reaches shared variables, but by none of the feat"):
        pt.gradients(around, variables, measure="features")


@pytest.mark.parametrize("method", [pt.GradDrop(), pt.MoCo(), pt.PerVariable(pt.MGDA())])
def test_methods_that_see_more_than_the_features_are_refused(method: pt.Method) -> None:
    variables = [keras.Variable(value) for value in (TRUNK, *HEADS.values())]
    grads = pt.gradients(lambda: losses_of(variables), variables, "features")
    with pytest.raises(ValueError, match=r'measure="parameters"'):
        pt.Combiner(method)(grads)


def test_an_objective_apart_from_the_marks_keeps_to_itself(variables: list) -> None:
    w = keras.Variable([1.0, 2.0])

    def apart() -> dict[str, object]:
        return {**losses_of(variables), "c": ops.sum(w * 3.0)}

    grads = pt.gradients(apart, [*variables, w], measure="features")
    products = np.zeros((3, 3))
    products[:2, :2] = expected()[0]
    assert_close([grads.gramian], [products])
    assert_close([pt.Combiner("sum")(grads)[-1]], [[3.0, 3.0]])
