"""`pt.GradientTape`: what it records and frees, how it nests, and what it says of wrong use."""

import re
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt

if keras.backend.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)
tf = pytest.importorskip("tensorflow")


@pytest.fixture
def w() -> keras.Variable:
    return keras.Variable([1.0, 2.0], name="w")


def losses_of(w: Any) -> dict[str, Any]:
    return {"a": w[0] ** 2, "b": -w[0] * w[1]}


def taken(w: Any, *more: Any) -> Any:
    with pt.GradientTape() as tape:
        losses = losses_of(w)
    return tape.gradients(losses, [w, *more])


def test_rows_and_what_is_read_off_them(w: keras.Variable) -> None:
    grads = taken(w)
    np.testing.assert_allclose(grads["a"][0], [2.0, 0.0])
    np.testing.assert_allclose(grads["b"][0], [-2.0, -1.0])
    np.testing.assert_allclose(grads.gramian, [[4.0, -4.0], [-4.0, 5.0]])
    assert [float(loss) for loss in grads.losses.values()] == [1.0, -2.0]
    assert isinstance(grads, pt.Gradients)


def test_by_variables_of_both_kinds_and_tensors(w: keras.Variable) -> None:
    v, x = tf.Variable([3.0, 1.0]), tf.constant([2.0, 5.0])
    with pt.GradientTape() as tape:
        tape.watch(x)
        hidden = w * v
        losses = [tf.reduce_sum(hidden * x), tf.reduce_sum(x**2)]
    grads = tape.gradients(losses, [w, v, x, hidden])
    assert grads.connectivity.names == ("0", "1")
    for found, expected in zip(grads["0"], ([6, 5], [2, 10], [3, 2], [2, 5]), strict=True):
        np.testing.assert_allclose(found, expected)
    assert [row is None for row in grads["1"]] == [True, True, False, True]


@pytest.mark.parametrize("xla", [False, True])
def test_inside_a_compiled_function(w: keras.Variable, xla: bool) -> None:
    inside = tf.function(lambda: taken(w).combine("normalize"), jit_compile=xla)
    np.testing.assert_allclose(inside()[0], taken(w).combine(pt.Normalize())[0], rtol=1e-5)


@pytest.mark.parametrize("outer_kind", [tf.GradientTape, pt.GradientTape])
def test_gradients_of_gradients(w: keras.Variable, outer_kind: type) -> None:
    with outer_kind() as outer:
        with pt.GradientTape() as tape:
            cube = tf.reduce_sum(w**3)
        (slope,) = tape.gradients({"cube": cube}, [w])["cube"]
        length = tf.reduce_sum(slope**2)  # 9 sum w^4
    if outer_kind is pt.GradientTape:
        found = outer.gradients({"length": length}, [w])["length"][0]
    else:
        found = outer.gradient(length, w)
    np.testing.assert_allclose(found, [36.0, 36.0 * 8])


def test_around_a_derivative(w: keras.Variable) -> None:
    with pt.GradientTape() as tape:
        slope = pt.derivative(lambda x: tf.reduce_sum(w * x**2), tf.constant([1.0, 3.0]))
        loss = tf.reduce_sum(slope**2)  # sum (2 w x)^2
    np.testing.assert_allclose(tape.gradients([loss], [w])["0"][0], [8.0, 144.0])


def test_nothing_is_kept_alive(w: keras.Variable) -> None:
    with pt.GradientTape() as tape:
        hidden = tf.exp(w)
        loss = tf.reduce_sum(tf.sin(hidden))
    held = weakref.ref(hidden)
    del hidden
    assert held() is not None
    grads = tape.gradients({"a": loss}, [w])
    assert held() is None
    assert grads["a"][0] is not None


def test_gradients_inside_the_block_end_the_record(w: keras.Variable) -> None:
    with pt.GradientTape() as tape:
        grads = tape.gradients(losses_of(w), [w])
        with pytest.raises(AttributeError, match="call it inside the `with` block"):
            tape.watch(w)
    np.testing.assert_allclose(grads["b"][0], [-2.0, -1.0])


def test_persistent_any_number_of_times_and_mixed(w: keras.Variable) -> None:
    with pt.GradientTape(persistent=True) as tape:
        losses = losses_of(w)
        within = tape.gradients(losses, [w])
        slope = tf.reduce_sum(within["a"][0] ** 2)  # (2 w0)^2
    first, second = tape.gradients(losses, [w]), tape.gradients({"b": losses["b"]}, [w])
    for grads in (within, first):
        np.testing.assert_array_equal(grads["a"][0], tape.gradient(losses["a"], w))
    np.testing.assert_array_equal(second["b"][0], tape.gradient(losses["b"], [w])[0])
    np.testing.assert_allclose(tape.gradients([slope], [w])["0"][0], [8.0, 0.0])
    np.testing.assert_allclose(first.combine("sum")[0], [0.0, -1.0])


def test_mixed_with_reset_and_stop_recording(w: keras.Variable) -> None:
    v = keras.Variable(2.0)
    with pt.GradientTape() as tape:
        early = w[0] * v
        tape.reset()
        with tape.stop_recording():
            factor = v * 1.0
        losses = {"a": w[0] * factor + early, "b": w[1] ** 2 * v}
    grads = tape.gradients(losses, [w, v])
    np.testing.assert_allclose(grads["a"][0], [2.0, 0.0])
    assert grads["a"][1] is None
    np.testing.assert_allclose(grads["b"][1], 4.0)
    with tape:  # a used tape records anew, as TensorFlow's does
        losses = losses_of(w)
    np.testing.assert_allclose(tape.gradients(losses, [w])["a"][0], [2.0, 0.0])


@pytest.mark.parametrize("private", ["own", "weighted", "joint"])
@pytest.mark.parametrize("method", [pt.Mean(), pt.Normalize(), pt.SignAgreement()])
def test_combined_as_by_a_combiner(w: keras.Variable, method: pt.Method, private: str) -> None:
    own, idle = keras.Variable(2.0), keras.Variable(3.0)
    with pt.GradientTape() as tape:
        losses = {"a": w[0] ** 2 + own**2, "b": -w[0] * w[1]}
    grads = tape.gradients(losses, [w, own, idle])
    update = grads.combine(method, private=private)
    expected = pt.Combiner(method, private=private)(grads)
    assert update[2] is None
    for found, wanted in zip(update[:2], expected[:2], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_combiner_keeps_its_state(w: keras.Variable) -> None:
    combiner = pt.Combiner(pt.PCGrad())
    for _ in range(2):
        taken(w).combine(combiner)
    assert int(combiner.steps.value) == 2


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("dwa", "DWA keeps a state"),
        ("moco", "MoCo keeps a state"),
        (pt.Smoothed(pt.MGDA()), "Smoothed keeps a state"),
        ("randomweights", "RandomWeights draws random numbers"),
    ],
)
def test_methods_that_need_a_combiner(w: keras.Variable, method: Any, why: str) -> None:
    text = why + r".* Make a pt.Combiner once, .* and write grads.combine\(combiner\)"
    with pytest.raises(ValueError, match=text):
        taken(w).combine(method)


def test_an_unknown_choice_of_private(w: keras.Variable) -> None:
    with pytest.raises(ValueError, match="Received: 'shared'"):
        taken(w).combine("sum", private="shared")


def gradient_of(tape: Any, losses: Any, w: Any) -> Any:
    return tape.gradient(losses["a"], w)


def gradients_of(tape: Any, losses: Any, w: Any) -> Any:
    return tape.gradients(losses, [w])


@pytest.mark.parametrize("first", [gradient_of, gradients_of])
@pytest.mark.parametrize("second", [gradient_of, gradients_of])
def test_used_up(w: keras.Variable, first: Any, second: Any) -> None:
    with pt.GradientTape() as tape:
        losses = losses_of(w)
    first(tape, losses, w)
    line = first.__code__.co_firstlineno + 1
    name = first.__name__.removesuffix("_of")
    text = rf"used up: `{name}`, at test_tape.py:{line}: return .* all losses in one call"
    with pytest.raises(RuntimeError, match=text) as caught:
        second(tape, losses, w)
    if second is gradient_of:
        assert "A non-persistent GradientTape can only be used to compute one" in str(caught.value)


def test_a_tape_made_for_one_gradient(w: keras.Variable) -> None:
    """The function that opens it asks tapes for `gradient` only."""

    def one(several: bool) -> Any:
        with pt.GradientTape() as tape:
            losses = losses_of(w)
        return gradients_of(tape, losses, w) if several else tape.gradient(losses["a"], w)

    one(several=False)
    with pytest.raises(RuntimeError, match=r"asks tapes for `gradient`.*persistent=True"):
        one(several=True)


def test_not_entered(w: keras.Variable) -> None:
    with pytest.raises(RuntimeError, match=r"recorded nothing. .* inside `with pt.GradientTape"):
        pt.GradientTape().gradients(losses_of(w), [w])


def test_never_entered_by_its_older_name(w: keras.Variable) -> None:
    with pytest.raises(RuntimeError, match=r"non-persistent .* recorded nothing. .* inside `with"):
        pt.GradientTape().gradient(w.value, w)


@pytest.mark.parametrize("x", [np.ones(2, "float32"), [tf.constant(1.0), 2.0]])
def test_what_cannot_be_watched(x: Any) -> None:
    text = r"Passed in object .* takes floating-point tensors .*. Convert it with tf"
    with pt.GradientTape() as tape, pytest.raises(ValueError, match=text):
        tape.watch(x)


@pytest.mark.parametrize(
    ("make", "sources", "text"),
    [
        (
            lambda w: (w * 1.0).numpy(),
            lambda w: w,
            r"of type ndarray, and no tensor. NumPy",
        ),
        (lambda w: float(w[0]), lambda w: w, r"of type float, and no tensor"),
        (lambda w: w * 1.0, lambda w: [w, None], r"A source is None: give the variable"),
        (
            lambda w: w * 1.0,
            lambda w: keras.Sequential(name="net"),
            r"'net', a layer or model",
        ),
    ],
)
def test_calls_that_tensorflow_refuses(w: Any, make: Any, sources: Any, text: str) -> None:
    with pt.GradientTape() as tape:
        target = make(w)
    with pytest.raises((AttributeError, TypeError, ValueError), match=text):
        tape.gradient(target, sources(w))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda w: w[0], TypeError, r'Received: one tensor. Write tape.gradients\(\{"loss": loss'),
        (lambda w: {"a": (w * 1.0).numpy()}, TypeError, r"'a' is not a tensor.* NumPy"),
        (lambda w: {"a": w * 1.0}, ValueError, r"'a' is not a scalar. Received shape: \(2,\)"),
        (lambda w: [], TypeError, r"at least one entry, .* Received: \[\]"),
    ],
)
def test_losses_that_are_none(w: keras.Variable, make: Any, error: type, text: str) -> None:
    with pt.GradientTape() as tape:
        losses = make(w)
    with pytest.raises(error, match=text):
        tape.gradients(losses, [w])


def test_variables_that_are_none_or_twice(w: keras.Variable) -> None:
    never_called = keras.layers.Dense(2)
    with pt.GradientTape() as tape:
        losses = losses_of(w)
    with pytest.raises(
        ValueError, match=r"tape.gradients got no variables. A model that was never"
    ):
        tape.gradients(losses, never_called.trainable_variables)
    with pytest.raises(ValueError, match=r"'w' twice, as number 0 and 1: .* share a layer"):
        tape.gradients(losses, [w, w])
    assert tape.gradients(losses, [w])["a"]  # a mistake does not use it up


def test_losses_without_a_path(w: keras.Variable) -> None:
    v, x = keras.Variable([1.0], name="v"), tf.constant([1.0])
    outside = tf.reduce_sum(w * 2.0)
    cases = [
        (lambda: {"a": outside * 3.0}, [w], "No variable was read inside .* outside the tape"),
        (
            lambda: {"good": tf.reduce_sum(w), "a": outside * 3.0},
            [w],
            "no recorded path to any variable, though some .* outside the tape, or .* argmax",
        ),
        (
            lambda: {"a": tf.reduce_sum(w + v)},
            [keras.Variable(1.0)],
            "It reaches others: w, v. If",
        ),
        (lambda: {"a": x[0] ** 2 + 0.0 * v[0]}, [x], r"is told to: call tape.watch\(x\)"),
        (lambda: {"b": v[0], "a": x[0] ** 2}, [v, x], "must be watched before it is used"),
    ]
    for losses, sources, cause in cases:
        with pt.GradientTape() as tape:
            found = losses()
        whole = rf"Objective 'a' reaches none of the {len(sources)} sources. .*{cause}"
        with pytest.raises(ValueError, match=re.compile(whole, re.DOTALL)):
            tape.gradients(found, sources)


def two_layers() -> tuple[keras.Model, keras.layers.Layer]:
    inputs = keras.Input((2,))
    body = keras.layers.Dense(2, name="body")(inputs)
    return keras.Model(inputs, body, name="encoder"), keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, name="head")], name="decoder"
    )


def test_a_path_that_numpy_cuts_is_not_answered_with_other_networks() -> None:
    encoder, decoder = two_layers()
    with pt.GradientTape() as tape:
        code = encoder(tf.ones((3, 2))).numpy()
        loss = tf.reduce_mean(decoder(code))
    text = (
        r"reaches none of the 2 sources: body/kernel, body/bias. The path to them may be broken: 2 "
        r"of them were read .* NumPy, .* It does reach head/kernel, head/bias. Mend the path"
    )
    with pytest.raises(ValueError, match=text.replace("body", ".*body").replace("head", ".*head")):
        tape.gradients({"a": loss}, encoder.trainable_variables)


@pytest.mark.parametrize("graph", [False, True])
def test_a_loss_finished_behind_the_block_is_told_from_a_prediction_made_outside(
    graph: bool,
) -> None:
    encoder, _ = two_layers()

    def late() -> None:
        with pt.GradientTape() as tape:
            error = tf.square(encoder(tf.ones((3, 2))))
        tape.gradients({"a": tf.reduce_mean(error)}, encoder.trainable_variables)

    def outside() -> None:
        code = encoder(tf.ones((3, 2)))
        with pt.GradientTape() as tape:
            encoder(tf.ones((3, 2)))
            loss = tf.reduce_mean(code)
        tape.gradients({"a": loss}, encoder.trainable_variables)

    for call, text in (
        (late, "The loss itself was finished behind the `with` block"),
        (outside, "its prediction was computed outside the tape"),
    ):
        with pytest.raises(ValueError, match=text):
            tf.function(call)() if graph else call()


# ------------------------------------------------------------- `gradient` that has only None


def told(make: Callable[[], Any]) -> str:
    """The one warning of a program."""
    with pytest.warns(UserWarning, match="has no gradient") as caught:
        make()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    return str(caught[0].message)


def asked(sources: Any, losses: Callable[[], Any], **options: Any) -> Callable[[], Any]:
    def program() -> Any:
        with pt.GradientTape(**options) as tape:
            target = losses()
        return tape.gradient(target, sources)

    return program


def late(x: Any) -> Callable[[], Any]:
    def program() -> Any:
        with pt.GradientTape() as tape:
            tape.watch(x)
            target = x**2
        target = tf.reduce_sum(target)
        sources = [x]
        return tape.gradient(target, sources)

    return program


FROZEN = tf.Variable([1.0], trainable=False)
X, V = tf.constant([1.0]), tf.Variable([1.0, 2.0], name="v")
OUTSIDE = tf.reduce_sum(V * 2.0)
SILENT = {
    "outside": (lambda w: asked([w], lambda: OUTSIDE * 3.0), "No variable was read inside"),
    "unwatched": (lambda w: asked(X, lambda: X**2), r"tape.watch\(x\) inside"),
    "other network": (lambda w: asked([V], lambda: w * 2.0), "It reaches others: w"),
    "cut": (
        lambda w: asked([w], lambda: tf.stop_gradient(w * 1.0) + V),
        r"`stop_gradient` ends the gradient, at test_tape.py:\d+: .* Remove it; if it is meant",
    ),
    "argmax": (
        lambda w: asked([w], lambda: tf.argmax(w * 1.0)),
        r"`argmax` gives an index, .* at test_tape.py:\d+: lambda w: .* Train on the softmax",
    ),
    "frozen": (lambda w: asked([FROZEN], lambda: FROZEN * w), "All sources are frozen"),
    "integers": (
        lambda w: asked(tf.constant([1]), lambda: w * 1.0),
        "Of sources of type int32 there is no gradient",
    ),
    "behind": (lambda w: late(X), "finished behind the `with` block"),
    "no access": (
        lambda w: asked([w], lambda: w * 1.0, watch_accessed_variables=False),
        "was told to watch no variable",
    ),
    "no sources": (lambda w: asked([], lambda: w * 1.0), "A model that was never called has no"),
}


@pytest.fixture(autouse=True)
def _lines_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is told anew."""
    for known in ("_settled", "_told"):
        monkeypatch.setattr(f"polytape.tape.gradient_tape.{known}", set())


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("case", SILENT)
def test_only_none_says_why(w: keras.Variable, case: str, graph: bool) -> None:
    make, text = SILENT[case]
    program = make(w)
    message = told((lambda: tf.function(lambda: program() and None)()) if graph else program)
    assert "At test_tape.py:" in message
    assert "return tape.gradient(target, sources)" in message
    assert re.search(text, message), message


def test_it_is_said_once_per_line(w: keras.Variable) -> None:
    program = asked([V], lambda: w * 2.0)
    told(program)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert program() == [None]


def test_also_on_a_line_that_had_gradients_before(w: keras.Variable) -> None:
    def step(target: Any) -> Any:
        with pt.GradientTape() as tape:
            loss = target()
        return tape.gradient(loss, [w])

    assert step(lambda: w * 2.0)[0] is not None
    assert "was computed outside the tape, or the path goes through" in told(
        lambda: step(lambda: tf.stop_gradient(w * 1.0))
    )


def test_jacobians_too(w: keras.Variable) -> None:
    def program() -> Any:
        with pt.GradientTape(persistent=True) as tape:
            y = w * 2.0
        return tape.jacobian(y, [V])

    assert "tape.jacobian has no gradient by any of its 1 sources (v)" in told(program)


# ------------------------------------------------------------------------------- explanations


def faulty(w: Any, v: Any) -> dict[str, Any]:
    return {
        "sound": tf.reduce_sum(w * v),
        "cut": tf.reduce_sum(tf.round(w)),
        "flat": tf.reduce_sum(tf.nn.relu(-tf.abs(w) - 1.0)),
        "infinite": tf.reduce_sum(tf.sqrt(w - w)),
    }


EXPECTED = {
    ("cut", "cut", "round"),
    ("flat", "saturated", "relu"),
    ("infinite", "not finite", "sqrt"),
}


def kinds(found: Any) -> set[tuple[str, str, str]]:
    return {(f.objective, f.kind, f.operation) for f in found.findings if f.network == "w"}


@pytest.mark.parametrize("persistent", [False, True])
def test_explained_before_in_and_behind(w: keras.Variable, persistent: bool) -> None:
    v = keras.Variable([1.0, 3.0], name="v")
    with pt.GradientTape(persistent) as tape:
        losses = faulty(w, v)
        within = tape.explain(losses, [w, v])
        late = tf.reduce_sum(w**2)
    before = tape.explain(losses, [w, v])
    sums = tape.gradient([losses["sound"], late], w)
    behind = tape.explain(losses, [w, v])
    np.testing.assert_allclose(sums, [1.0 + 2.0, 3.0 + 4.0])
    for found in (within, before, behind):
        assert kinds(found) == EXPECTED
        lines = {finding.line for finding in found.findings if finding.operation == "round"}
        assert lines == {
            "test_tape.py:"
            + str(faulty.__code__.co_firstlineno + 3)
            + ': "cut": tf.reduce_sum(tf.round(w)),'
        }
    assert before.cell("sound", "w").norm == pytest.approx(10**0.5)


def test_explained_behind_gradients_and_of_one_loss(w: keras.Variable) -> None:
    with pt.GradientTape() as tape:
        losses = losses_of(w)
    tape.gradients(losses, [w])
    assert tape.explain(losses, [w]).findings == ()
    assert tape.explain(losses["a"], [w]).objectives == ("loss",)


def test_a_record_that_is_gone(w: keras.Variable) -> None:
    with pt.GradientTape() as tape:
        losses = losses_of(w)
    gradient_of(tape, losses, w)
    ask = getattr(tape, "ex" + "plain")  # a function that says `.explain` would have it kept
    with pytest.raises(RuntimeError, match=r"The record is gone, .* function that opens the tape"):
        ask(losses, [w])


def test_explained_before_it_was_opened(w: keras.Variable) -> None:
    for persistent in (False, True):
        with pytest.raises(RuntimeError, match="recorded nothing"):
            pt.GradientTape(persistent).explain({"a": w.value[0]}, [w])


def test_a_record_without_values(w: keras.Variable) -> None:
    def traced() -> None:
        with pt.GradientTape() as tape:
            losses = losses_of(w)
        tape.explain(losses, [w])

    with pytest.raises(RuntimeError, match=r"tf.config.run_functions_eagerly\(True\)"):
        tf.function(traced)()
