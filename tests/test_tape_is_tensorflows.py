"""`pt.GradientTape` in place of `tf.GradientTape`: the same program gives the same bits or errors.

Each program is a function of the class of tape. It runs with both, from the same seeds, and what it
returns must be equal bit by bit, in type and nesting, or fail alike.
"""

import contextlib
import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from fresh import fresh
from polytape.engines import Asked

if keras.backend.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)
tf = pytest.importorskip("tensorflow")

Program = Callable[[Any], Any]
EAGER: dict[str, Program] = {}
ANYWHERE: dict[str, Program] = {}  # these run inside `tf.function`, too, with and without XLA
pytestmark = pytest.mark.filterwarnings("ignore:tape.*has no gradient")
CONSTANT = tf.constant([0.5, -1.5, 2.0])


def eager(program: Program) -> Program:
    EAGER[program.__name__] = program
    return program


def anywhere(program: Program) -> Program:
    ANYWHERE[program.__name__] = program
    return program


# ------------------------------------------------------------------------------- comparing


def outcome(program: Program, tape: Any) -> Any:
    """What a program returns, or how it fails."""
    keras.utils.set_random_seed(0)
    try:
        return program(tape)
    except Exception as error:
        return error


def leaves(nest: Any) -> list[Any]:
    return list(tf.nest.flatten(nest))


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, Exception):
        assert type(found) is type(expected), (found, expected)
        if "in user code" not in str(expected):  # where the names of our own lines appear
            assert str(found).startswith(str(expected).rstrip(".")), (str(found), str(expected))
        return
    if isinstance(found, Exception):
        raise found
    tf.nest.assert_same_structure(found, expected, expand_composites=True)
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert_same_leaf(one, other)


def assert_same_leaf(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, tf.IndexedSlices):
        parts = ("values", "indices")
        for part in parts:
            assert_same_leaf(getattr(found, part), getattr(expected, part))
    elif isinstance(expected, (tf.RaggedTensor, tf.SparseTensor)):
        pairs = zip(
            tf.nest.flatten(found, expand_composites=True),
            tf.nest.flatten(expected, expand_composites=True),
            strict=True,
        )
        for one, other in pairs:
            assert_same_leaf(one, other)
    elif tf.is_tensor(expected):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.numpy().tobytes() == expected.numpy().tobytes()
    else:
        assert found == expected


def both(program: Program) -> None:
    assert_same(outcome(program, pt.GradientTape), outcome(program, tf.GradientTape))


# ------------------------------------------------------------------ programs: values


def variable(*values: float) -> Any:
    return tf.Variable(list(values) or [1.0, -2.0, 3.0])


@anywhere
def one_gradient(tape: Any) -> Any:
    w = CONSTANT * 1.0
    with tape() as t:
        t.watch(w)
        y = tf.reduce_sum(tf.sin(w) * w)
    return t.gradient(y, w)


@anywhere
def nests_of_targets_and_sources(tape: Any) -> Any:
    a, b, c = CONSTANT * 1.0, CONSTANT * 2.0, CONSTANT * 3.0
    with tape() as t:
        t.watch([a, {"b": b}, (c,)])
        targets = {"x": a * b, "y": [tf.exp(c), b]}
    return t.gradient(targets, {"a": a, "rest": [b, (c,)]})


@anywhere
def output_gradients(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape(persistent=True) as t:
        t.watch(a)
        y, z = a**2, tf.exp(a)
    return (
        t.gradient(y, a, output_gradients=tf.constant([1.0, 0.0, 2.0])),
        t.gradient([y, z], a, [2.0 * a, a]),
        t.gradient([y, z], [a], output_gradients=[a, a]),
    )


@anywhere
def unconnected(tape: Any) -> Any:
    a, b = CONSTANT * 1.0, CONSTANT * 2.0
    with tape(persistent=True) as t:
        t.watch([a, b])
        y = a**2
    return (
        t.gradient(y, [a, b]),
        t.gradient(y, [a, b], unconnected_gradients="zero"),
        t.gradient(y, [b], unconnected_gradients=tf.UnconnectedGradients.ZERO),
        t.gradient(y, b, unconnected_gradients=tf.UnconnectedGradients.NONE),
    )


@anywhere
def jacobians(tape: Any) -> Any:
    a, b = CONSTANT * 1.0, tf.ones((3, 2))
    with tape(persistent=True) as t:
        t.watch([a, b])
        y = tf.linalg.matvec(b, tf.stack([a[0] * a[1], tf.sin(a[2])]))
    found = t.jacobian(y, {"a": a, "b": [b]})
    return found, t.jacobian(y, CONSTANT), t.jacobian(y, CONSTANT, unconnected_gradients="zero")


@anywhere
def one_jacobian(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        y = tf.stack([a[0] * a[1], tf.reduce_sum(a**3)])
    return t.jacobian(y, a)


@eager
def jacobian_without_pfor(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape(persistent=True) as t:
        t.watch(a)
        y = a**3
    return t.jacobian(y, a, experimental_use_pfor=False), t.jacobian(y, a, "zero", 2)


@anywhere
def batch_jacobians(tape: Any) -> Any:
    a = tf.reshape(tf.range(6.0), (3, 2))
    with tape(True) as t:
        t.watch(a)
        y = tf.stack([a[:, 0] * a[:, 1], a[:, 0] ** 2, a[:, 1]], axis=1)
    return t.batch_jacobian(y, a), t.batch_jacobian(tf.ones((3, 1)), a)


@anywhere
def one_batch_jacobian(tape: Any) -> Any:
    a = tf.reshape(tf.range(6.0), (3, 2))
    with tape() as t:
        t.watch(a)
        y = tf.stack([a[:, 0] * a[:, 1], a[:, 0] ** 2], axis=1)
    return t.batch_jacobian(y, a)


@anywhere
def hessian(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as outer:
        outer.watch(a)
        with tape() as inner:
            inner.watch(a)
            y = tf.reduce_prod(a) + tf.reduce_sum(tf.sin(a))
        slope = inner.gradient(y, a)
    return slope, outer.jacobian(slope, a)


@anywhere
def third_derivative(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as one:
        one.watch(a)
        with tape() as two:
            two.watch(a)
            with tape() as three:
                three.watch(a)
                y = tf.reduce_sum(a**4)
            first = three.gradient(y, a)
        second = two.gradient(first, a)
    return first, second, one.gradient(second, a)


@anywhere
def both_kinds_nested(tape: Any) -> Any:
    a = CONSTANT * 1.0
    found = []
    for outer_kind, inner_kind in ((tape, tf.GradientTape), (tf.GradientTape, tape)):
        with outer_kind() as outer:
            outer.watch(a)
            with inner_kind(persistent=True) as inner:
                inner.watch(a)
                y = tf.reduce_sum(tf.exp(a))
            slope = inner.gradient(y, a)
        found += [inner.gradient(y, a), outer.gradient(slope, a)]
    return found


@anywhere
def derivative_of_its_own(tape: Any) -> Any:
    """Inside its block a persistent tape records its own gradients."""
    a = CONSTANT * 1.0
    with tape(persistent=True) as t:
        t.watch(a)
        y = tf.reduce_sum(a**3)
        first = t.gradient(y, a)
        second = t.gradient(first, a)
    return first, second, t.gradient(second, a)


@anywhere
def inside_its_block(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        y = tf.reduce_sum(a**3)
        found = t.gradient(y, a)
        y = y * 2.0
    return found, y


@anywhere
def stopped_for_a_while(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape(persistent=True) as t:
        t.watch(a)
        x = a**2
        with t.stop_recording():
            y = x * a
        z = y * a
    return [t.gradient(target, a) for target in (x, y, z)]


@anywhere
def stopped_and_asked(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        x = a**2
        with t.stop_recording():
            found = t.gradient(x, a)
    return found


@anywhere
def reset(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        x = a**2
        t.reset()
        t.watch(a)
        y = x * a
    return t.gradient(y, a)


@anywhere
def two_blocks(tape: Any) -> Any:
    a, t = CONSTANT * 1.0, tape()
    with t:
        t.watch(a)
        x = a**2
    y = x * 3.0
    with t:
        z = x * a
    return t.gradient([y, z], a)


@anywhere
def used_once_more(tape: Any) -> Any:
    a, t, found = CONSTANT * 1.0, tape(), []
    for power in (2, 3):
        with t:
            t.watch(a)
            y = a**power
        found.append(t.gradient(y, a))
    return found


@anywhere
def of_a_source_itself(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape(persistent=True) as t:
        t.watch(a)
        y = a * 2.0
    return t.gradient(a, a), t.gradient([a, y], [a, y]), t.gradient(y, y)


@anywhere
def no_targets_or_sources(tape: Any) -> Any:
    with tape(persistent=True) as t:
        y = CONSTANT * 2.0
    return t.gradient(y, []), t.gradient([], [CONSTANT]), t.gradient({}, {"a": CONSTANT})


@anywhere
def complex_numbers(tape: Any) -> Any:
    a = tf.complex(CONSTANT, 2.0 * CONSTANT)
    with tape(persistent=True) as t:
        t.watch(a)
        y, z = tf.math.real(a * tf.math.conj(a)), a**2
    return t.gradient(y, a), t.gradient(z, a), t.jacobian(y, a)


@anywhere
def integers(tape: Any) -> Any:
    a, whole = CONSTANT * 1.0, tf.constant([1, 2, 3])
    with tape(persistent=True) as t:
        t.watch([a, whole])
        y = tf.cast(whole, tf.float32) * a
        picked = tf.argmax(a)
    return t.gradient(y, [a, whole]), t.gradient(picked, a), t.gradient(whole * 2, whole)


@anywhere
def half_and_double(tape: Any) -> Any:
    a, b = tf.cast(CONSTANT, tf.float16), tf.cast(CONSTANT, tf.float64)
    with tape() as t:
        t.watch([a, b])
        y = tf.reduce_sum(tf.cast(a, tf.float32) ** 2) + tf.cast(tf.reduce_sum(b), tf.float32)
    return t.gradient(y, [a, b])


@anywhere
def branches_and_loops(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        y = tf.cond(tf.reduce_sum(a) > 0.0, lambda: tf.sin(a), lambda: tf.cos(a))
        _, y = tf.while_loop(
            lambda i, _: i < 3, lambda i, x: (i + 1, x * a), (0, y), maximum_iterations=3
        )
    return t.gradient(y, a)


@anywhere
def own_gradients(tape: Any) -> Any:
    calls = []

    @tf.custom_gradient
    def clipped(x: Any) -> Any:
        def backward(upstream: Any) -> Any:
            calls.append("backward")
            return tf.clip_by_value(upstream, -0.5, 0.5)

        return x**2, backward

    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        y = tf.reduce_sum(3.0 * clipped(a))
    return t.gradient(y, a), len(calls)


@anywhere
def recomputed(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tape() as t:
        t.watch(a)
        y = tf.recompute_grad(lambda x: tf.sin(x) * x)(a)
    return t.gradient(y, a)


@anywhere
def inner_function(tape: Any) -> Any:
    """A `tf.function` called inside the block, with random numbers of the global seed."""
    a = CONSTANT * 1.0

    @tf.function
    def noisy(x: Any) -> Any:
        return tf.nn.dropout(tf.sin(x) * x, 0.5) + tf.random.normal((3,)) * x

    with tape() as t:
        t.watch(a)
        y = tf.reduce_sum(noisy(a) * a)
    return y, t.gradient(y, a), tf.random.normal((2,))


WITHOUT_SEED = ("inner_function",)  # XLA draws numbers that no seed repeats


# ----------------------------------------------------------------- programs: variables


@eager
def variables_of_both_kinds(tape: Any) -> Any:
    w, v = variable(), keras.Variable([2.0, 0.0, 1.0])
    frozen = tf.Variable([1.0, 1.0, 1.0], trainable=False)
    with tape(persistent=True) as t:
        y = tf.reduce_sum(w**2 * v * frozen)
    return (
        t.gradient(y, {"w": w, "rest": [v, frozen]}),
        t.gradient(y, [v.value, w]),
        t.gradient(w, w),
    )


@eager
def only_what_is_watched(tape: Any) -> Any:
    w, v = variable(), variable(1.0, 1.0, 1.0)
    with tape(persistent=True, watch_accessed_variables=False) as t:
        t.watch(w)
        y = tf.reduce_sum(w * v)
    seen = [variable is w for variable in t.watched_variables()]
    return t.gradient(y, [w, v]), tuple(seen)


@eager
def watched_variables(tape: Any) -> Any:
    w, v = variable(), keras.Variable(1.0)
    with tape() as t:
        before = t.watched_variables()
        y = tf.reduce_sum(w) * v
    inside = t.watched_variables()
    t.gradient(y, w)
    after = t.watched_variables()
    return tuple(
        tuple("w" if each is w else "v" if each is v.value else "?" for each in known)
        for known in (before, inside, after)
    )


@eager
def sparse(tape: Any) -> Any:
    table, w = tf.Variable(tf.random.normal((5, 2))), variable(1.0, 2.0)
    with tape(persistent=True) as t:
        rows = tf.gather(table, [0, 3, 3])
        first = rows[0]
        y = tf.reduce_sum(tf.nn.embedding_lookup(table, [[1, 1]]) * w) + tf.reduce_sum(rows**2)
    return t.gradient(y, [table, w]), t.gradient(rows, table), t.jacobian(first, table)


@eager
def ragged(tape: Any) -> Any:
    x = tf.ragged.constant([[1.0, 2.0], [3.0]])
    with tape() as t:
        t.watch(x)
        y = x * x
    return t.gradient(y, x)


@eager
def assigned_inside(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w**2
        w.assign_add([1.0, 1.0, 1.0])
        y = y * w
    return t.gradient(y, w), w.value()


@eager
def read_by_a_function(tape: Any) -> Any:
    w = variable()

    @tf.function
    def cube(x: Any) -> Any:
        return tf.reduce_sum(w * x**3)

    with tape() as t:
        y = cube(w * 2.0)
    return t.gradient(y, w)


@eager
def forward_mode_over_it(tape: Any) -> Any:
    a = CONSTANT * 1.0
    with tf.autodiff.ForwardAccumulator(a, tf.ones_like(a)) as forward:
        with tape() as t:
            t.watch(a)
            y = tf.reduce_sum(a**3)
        slope = t.gradient(y, a)
    return forward.jvp(slope)


def network() -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )


def trained(tape: Any, compiled: bool, **options: Any) -> Any:
    """Three steps by hand: gradients, weights, slots."""
    net, optimizer = network(), keras.optimizers.Adam(0.1)
    x, y = tf.random.normal((6, 4)), tf.random.normal((6, 2))
    optimizer.build(net.trainable_variables)

    def step() -> Any:
        with tape(**options) as t:
            loss = tf.reduce_mean(tf.square(net(x, training=True) - y))
        found = t.gradient(loss, net.trainable_variables)
        optimizer.apply_gradients(zip(found, net.trainable_variables, strict=True))
        return loss, found

    run = tf.function(step, jit_compile=options.pop("jit_compile", False)) if compiled else step
    found = [run() for _ in range(3)]
    return found, [tf.identity(v.value) for v in [*net.variables, *optimizer.variables]]


@eager
def training(tape: Any) -> Any:
    return trained(tape, compiled=False)


@eager
def training_with_a_persistent_tape(tape: Any) -> Any:
    return trained(tape, compiled=False, persistent=True)


@eager
def compiled_training(tape: Any) -> Any:
    return trained(tape, compiled=True)


@eager
def recurrent_layers(tape: Any) -> Any:
    net = keras.Sequential(
        [
            keras.Input((None, 3)),
            keras.layers.Masking(),
            keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True)),
            keras.layers.GRU(3),
        ]
    )
    x = tf.random.normal((2, 5, 3)) * tf.constant([1.0, 1.0, 1.0, 0.0, 0.0])[None, :, None]
    with tape() as t:
        loss = tf.reduce_sum(net(x) ** 2)
    return t.gradient(loss, net.trainable_variables)


@eager
def a_train_step(tape: Any) -> Any:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def call(self, x: Any, training: bool = False) -> Any:
            return self.net(x, training=training)

        def train_step(self, data: Any) -> Any:
            x, y = data
            with tape() as t:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            found = t.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(found, self.trainable_variables, strict=True))
            return {"loss": loss}

    found = []
    for eagerly in (True, False):
        keras.utils.set_random_seed(0)
        model = Own()
        model.compile("adam", "mse", run_eagerly=eagerly, jit_compile=False)
        history = model.fit(np.ones((8, 4)), np.ones((8, 2)), epochs=2, batch_size=4, verbose=0)
        found.append((history.history, [tf.identity(w.value) for w in model.weights]))
    return found


@eager
def two_networks_and_two_tapes(tape: Any) -> Any:
    one, other = network(), network()
    with tape() as first, tape() as second:
        code = one(tf.ones((2, 4)))
        image = other(tf.concat([code, code], axis=1))
        a, b = tf.reduce_sum(image**2), tf.reduce_sum(code)
    return first.gradient(a, other.trainable_variables), second.gradient(b, one.trainable_variables)


@eager
def gradient_penalty(tape: Any) -> Any:
    critic, x = network(), tf.random.normal((3, 4))
    with tape() as outer:
        with tape() as inner:
            inner.watch(x)
            score = critic(x, training=False)
        slope = inner.gradient(score, x)
        penalty = tf.reduce_mean((tf.norm(slope, axis=1) - 1.0) ** 2)
    return outer.gradient(penalty, critic.trainable_variables)


@eager
def inner_function_of_xla(tape: Any) -> Any:
    w = variable()

    @tf.function(jit_compile=True)
    def cube(x: Any) -> Any:
        return tf.reduce_sum(w * x**3)

    with tape() as outer:
        with tape() as inner:
            y = cube(w * 2.0)
        slope = inner.gradient(y, w)
    return slope, outer.gradient(slope, w)


@eager
def inside_a_loop_over_data(tape: Any) -> Any:
    """A tape around operations on strings, data sets, tables, sparse and ragged tensors."""
    w, data = variable(), tf.data.Dataset.range(3).map(lambda n: tf.cast(n, tf.float32))
    keys = tf.constant(["a", "b"])
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1, 2], tf.int64)), -1
    )
    array = tf.TensorArray(tf.float32, 3, element_shape=(3,))
    generator = tf.random.Generator.from_seed(1)
    with tape() as t:
        for place, number in enumerate(data):
            array = array.write(place, w * number)
        found = tf.cast(table.lookup(tf.strings.lower(keys)), tf.float32)
        some = tf.sparse.from_dense(array.stack())
        rows = tf.RaggedTensor.from_row_lengths(w * w, [1, 2])
        tf.debugging.assert_greater(tf.size(found), 0)
        host = tf.py_function(lambda x: x * 2.0, [w], tf.float32)
        y = (
            tf.sparse.reduce_sum(some) * tf.reduce_sum(found)
            + tf.reduce_sum(tf.reduce_max(rows, axis=1))
            + tf.reduce_sum(host * generator.normal((3,)))
        )
    return y, t.gradient(y, w)


@eager
def a_tape_within_a_mapped_function(tape: Any) -> Any:
    def slope(x: Any) -> Any:
        with tape() as t:
            t.watch(x)
            y = tf.reduce_sum(x**3)
        return t.gradient(y, x)

    rows = tf.random.normal((4, 3))
    return tf.map_fn(slope, rows), tf.vectorized_map(slope, rows)


@eager
def opened_eagerly_and_asked_inside_a_function(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w**2
    return tf.function(lambda: t.gradient(y, w))()


@eager
def one_replica(tape: Any) -> Any:
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        w = variable()

    def step() -> Any:
        with tape() as t:
            y = tf.reduce_sum(w**2)
        return t.gradient(y, w)

    return strategy.run(step), strategy.run(tf.function(step))


@eager
def opened_by_a_stack_of_contexts(tape: Any) -> Any:
    w = variable()
    with contextlib.ExitStack() as stack:
        one, other = stack.enter_context(tape()), stack.enter_context(tape(persistent=True))
        y = w**3
    return one.gradient(y, w), other.gradient(y, w), other.jacobian(y, w)


@eager
def failed_inside(tape: Any) -> Any:
    """An error of the user's leaves the block, and nothing goes on being recorded."""
    w = variable()
    t = tape()
    with contextlib.suppress(ZeroDivisionError), t:
        y = w**2
        raise ZeroDivisionError
    y = y * w
    return t.gradient(y, w)


# -------------------------------------------------------------------- programs: errors


@eager
def used_twice(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w**2
    t.gradient(y, w)
    return t.gradient(y, w)


@eager
def jacobian_after_gradient(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w**2
    t.gradient(y, w)
    return t.jacobian(y, w)


@eager
def batch_jacobian_after_gradient(tape: Any) -> Any:
    w = tf.Variable([[1.0, 2.0]])
    with tape() as t:
        y = w**2
    t.gradient(y, w)
    return t.batch_jacobian(y, w)


@eager
def never_opened(tape: Any) -> Any:
    return tape().gradient(CONSTANT, CONSTANT)


@eager
def watched_before_the_block(tape: Any) -> Any:
    return tape().watch(CONSTANT)


@eager
def watched_when_used_up(tape: Any) -> Any:
    with tape() as t:
        t.watch(CONSTANT)
        t.gradient(CONSTANT * 2.0, CONSTANT)
        t.watch(CONSTANT)


@eager
def array_watched(tape: Any) -> Any:
    with tape() as t:
        t.watch(np.ones(2))


@eager
def number_watched(tape: Any) -> Any:
    with tape() as t:
        t.watch([CONSTANT, 3.0])


@eager
def opened_twice(tape: Any) -> Any:
    with tape() as t, t:
        pass


@eager
def reset_outside(tape: Any) -> Any:
    tape().reset()


@eager
def stopped_outside(tape: Any) -> Any:
    with tape().stop_recording():
        pass


@eager
def stopped_behind(tape: Any) -> Any:
    with tape() as t:
        pass
    with t.stop_recording():
        pass


@eager
def target_none(tape: Any) -> Any:
    with tape() as t:
        pass
    return t.gradient(None, variable())


@eager
def target_array(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        loss = tf.reduce_sum(w).numpy()
    return t.gradient(loss, w)


@eager
def target_number(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        loss = float(tf.reduce_sum(w))
    return t.gradient(loss, w)


@eager
def source_none(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    return t.gradient(y, [w, None])


@eager
def source_array(tape: Any) -> Any:
    with tape() as t:
        y = variable() * 2.0
    return t.gradient(y, np.ones(3))


@eager
def source_a_model(tape: Any) -> Any:
    net = network()
    with tape() as t:
        y = net(tf.ones((1, 4)))
    return t.gradient(y, net)


@eager
def unknown_choice(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    return t.gradient(y, w, unconnected_gradients="zeros")


@eager
def asked_again_after_a_mistake(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    with pytest.raises(ValueError):
        t.gradient(y, w, unconnected_gradients="zeros")
    return t.gradient(y, w)


@eager
def jacobian_that_wants_a_persistent_tape(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    return t.jacobian(y, w, experimental_use_pfor=False)


@eager
def jacobian_in_parts(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    return t.jacobian(y, w, parallel_iterations=1)


@eager
def batch_jacobian_in_parts(tape: Any) -> Any:
    w = tf.ones((2, 3))
    with tape() as t:
        t.watch(w)
        y = w * 2.0
    return t.batch_jacobian(y, w, parallel_iterations=1)


@eager
def batches_of_unequal_size(tape: Any) -> Any:
    a, b = tf.ones((2, 3)), tf.ones((3, 3))
    with tape() as t:
        t.watch(a)
        y = a * 2.0
    return t.batch_jacobian(y, b)


@eager
def wrong_number_of_output_gradients(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    return t.gradient(y, w, output_gradients=[w, w, w])


@eager
def output_gradients_of_none(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = w * 2.0
    return t.gradient(y, w, output_gradients=[None])


@eager
def host_function(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = tf.numpy_function(np.sin, [w], tf.float32)
    return t.gradient(y, w)


@eager
def no_gradient_registered(tape: Any) -> Any:
    w = variable()
    with tape() as t:
        y = tf.reduce_sum(tf.bitcast(w, tf.float32) * 1.0) + tf.reduce_sum(
            tf.raw_ops.FloorDiv(x=w, y=w)
        )
    return t.gradient(y, w)


@eager
def optimizer_given_none(tape: Any) -> Any:
    """The predictions are made outside: Keras refuses gradients that are all None."""
    net, optimizer = network(), keras.optimizers.Adam()
    prediction = net(tf.ones((2, 4)))
    with tape() as t:
        loss = tf.reduce_mean(prediction)
    found = t.gradient(loss, net.trainable_variables)
    optimizer.apply_gradients(zip(found, net.trainable_variables, strict=True))


HEALTHY = (
    *(
        "one_gradient",
        "nests_of_targets_and_sources",
        "output_gradients",
        "one_jacobian",
        "hessian",
    ),
    *("third_derivative", "derivative_of_its_own", "two_blocks", "reset", "complex_numbers"),
    *("branches_and_loops", "own_gradients", "inner_function", "variables_of_both_kinds", "sparse"),
    *("training", "compiled_training", "recurrent_layers", "two_networks_and_two_tapes"),
    *("gradient_penalty", "inside_a_loop_over_data", "read_by_a_function", "used_once_more"),
)


# ----------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("name", [*EAGER, *ANYWHERE])
def test_same_bits_or_same_error(name: str) -> None:
    both({**EAGER, **ANYWHERE}[name])


@pytest.mark.parametrize("explained", [False, True], ids=["several", "explained"])
def test_same_where_more_may_be_asked(explained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second tape, and notes that keep all tensors, make no difference."""
    asked = Asked(several=True, explanation=explained)
    monkeypatch.setattr("polytape.tape.gradient_tape.asked_by", lambda code: asked)
    for program in {**EAGER, **ANYWHERE}.values():
        if program not in (a_train_step, compiled_training):  # seconds, and nothing that is new
            both(program)


@pytest.mark.parametrize("name", ANYWHERE)
def test_inside_a_function(name: str) -> None:
    both(lambda tape: tf.function(lambda: ANYWHERE[name](tape))())


@pytest.mark.parametrize("name", [name for name in ANYWHERE if name not in WITHOUT_SEED])
def test_compiled_by_xla(name: str) -> None:
    both(lambda tape: tf.function(lambda: ANYWHERE[name](tape), jit_compile=True)())


@pytest.mark.parametrize("name", ANYWHERE)
def test_the_graph_is_the_same(name: str) -> None:
    """Not one operation more: numbers drawn from a global seed depend on how many there are."""

    def operations(tape: Any) -> Any:
        graph = tf.function(lambda: ANYWHERE[name](tape)).get_concrete_function().graph
        return [(operation.name, operation.type) for operation in graph.get_operations()]

    both(operations)


# --------------------------------------------------------- what is left behind, and warnings


def freed(tape: Any, ask: Callable[[Any, Any, Any], Any], **options: Any) -> tuple[bool, ...]:
    """Whether what was computed is gone: before, after the question, after the tape."""
    w, seen = variable(), []
    gc.collect()
    with tape(**options) as t:
        hidden = tf.exp(w)
        loss = tf.reduce_sum(tf.sin(hidden))
    held = weakref.ref(hidden)
    del hidden
    seen.append(held() is None)
    ask(t, loss, w)
    seen.append(held() is None)
    del t
    seen.append(held() is None)
    return tuple(seen)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("twice", [False, True], ids=["first", "again"])
def test_memory_goes_when_it_does_in_tensorflow(persistent: bool, twice: bool) -> None:
    def ask(tape: Any, loss: Any, w: Any) -> None:
        tape.gradient(loss, w)

    for _ in range(1 + twice):  # a line that had its gradient before keeps nothing beside
        found = freed(pt.GradientTape, ask, persistent=persistent)
    assert found == freed(tf.GradientTape, ask, persistent=persistent)
    assert found == (False, not persistent, True)


def test_what_was_recorded_goes_while_it_is_differentiated() -> None:
    """Not after the whole backward pass, but layer by layer."""

    def alive_at_the_first_layer(tape: Any) -> int:
        alive: list[weakref.ref] = []
        found: list[int] = []

        @tf.custom_gradient
        def first(x: Any) -> Any:
            def backward(upstream: Any) -> Any:
                found.append(sum(each() is not None for each in alive))
                return upstream

            return tf.identity(x), backward

        w = variable()
        with tape() as t:
            x = first(w * 1.0)
            for _ in range(5):
                x = tf.exp(-x)
                alive.append(weakref.ref(x))
            loss = tf.reduce_sum(x)
            del x
        t.gradient(loss, w)
        return found[0]

    expected = alive_at_the_first_layer(tf.GradientTape)
    alive_at_the_first_layer(pt.GradientTape)
    assert alive_at_the_first_layer(pt.GradientTape) == expected


@pytest.mark.parametrize("several", [False, True])
def test_warnings_of_tensorflow_come_as_often(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a type that has no gradient, and of a persistent tape that records its own gradients."""
    from tensorflow.python.platform import tf_logging

    said: list[str] = []
    monkeypatch.setattr(tf_logging, "log_first_n", lambda level, text, *more: said.append(text))
    asked = Asked(several=several)
    monkeypatch.setattr("polytape.tape.gradient_tape.asked_by", lambda code: asked)

    def warned(tape: Any) -> list[str]:
        said.clear()
        with tape() as t:
            t.watch([tf.constant([1, 2]), CONSTANT])
        with tape(persistent=True) as t:
            t.watch(CONSTANT)
            t.gradient(CONSTANT * 2.0, CONSTANT)
        return [*said]

    assert warned(pt.GradientTape) == warned(tf.GradientTape)
    assert len(said) == 2


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_another_meaning_for_the_name_in_tensorflow_itself(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras trains with it, then."""

    def fitted(_: Any) -> Any:
        model = network()
        model.compile("adam", "mse", run_eagerly=not compiled, jit_compile=False)
        history = model.fit(np.ones((8, 4)), np.ones((8, 2)), epochs=2, batch_size=4, verbose=0)
        return history.history, [tf.identity(w.value) for w in model.weights]

    expected = outcome(fitted, None)
    own, opened = pt.GradientTape, []
    monkeypatch.setattr(tf, "GradientTape", lambda: opened.append(1) or own())
    assert_same(outcome(fitted, None), expected)
    assert opened


RENAMED = """
import keras
import numpy as np
import tensorflow as tf
import polytape as pt

tf.GradientTape = pt.GradientTape
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile("sgd", "mse", run_eagerly=True)
model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
w = tf.Variable(3.0)
with tf.GradientTape() as tape:
    y = w * w
print("slope", float(tape.gradient(y, w)))
"""


def test_another_meaning_from_the_start() -> None:
    """Before polytape has looked at TensorFlow."""
    assert "slope 6.0" in fresh(RENAMED)


MIRRORED = """
import tensorflow as tf
import warnings
import polytape as pt

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    w = tf.Variable([1.0, 2.0], name="w")

def slopes(kind, cut):
    def replica():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        with kind() as tape:
            y = tf.reduce_sum(w**2) * tf.cast(rank + 1, tf.float32)
            y = tf.stop_gradient(y) if cut else y
        return tape.gradient(y, [w])

    found = [strategy.run(replica)[0], strategy.run(tf.function(replica))[0]]
    return [[each.numpy().tolist() for each in strategy.experimental_local_results(one)]
            for one in found if not cut]

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    slopes(pt.GradientTape, True)
print([str(warning.message) for warning in caught])
assert slopes(pt.GradientTape, False) == slopes(tf.GradientTape, False)
print("equal", slopes(pt.GradientTape, False))
"""


def test_replicas_take_their_own_gradients() -> None:
    """One loss is TensorFlow's own; `gradients` of several is summed over replicas, see there."""
    said = fresh(MIRRORED)
    assert "equal [[[2.0, 4.0], [4.0, 8.0]], [[2.0, 4.0], [4.0, 8.0]]]" in said
    assert said.count("stop_gradient` ends the gradient") == 1


def test_nothing_listens_behind_the_block() -> None:
    from tensorflow.python.eager import context

    for name in EAGER:
        outcome(EAGER[name], pt.GradientTape)
        assert not context.context().op_callbacks, name


def test_healthy_programs_are_not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in ("_settled", "_told"):  # as if they ran for the first time
        monkeypatch.setattr(f"polytape.tape.gradient_tape.{known}", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in HEALTHY:
            assert not isinstance(outcome({**EAGER, **ANYWHERE}[name], pt.GradientTape), Exception)
