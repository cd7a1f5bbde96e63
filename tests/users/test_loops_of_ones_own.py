"""Loops of one's own: outputs, lists, routes between networks, constants, names."""

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

pytestmark = pytest.mark.engine
BACKEND = keras.backend.backend()


def numbers(update: list[Any]) -> list[Any]:
    return [None if u is None else ops.convert_to_numpy(u).tolist() for u in update]


@pytest.fixture
def w() -> keras.Variable:
    return keras.Variable([1.0, 2.0], name="w")


# ------------------------------------------------------------------ what losses() returns


@pytest.mark.parametrize("measure", ["parameters", "features"])
def test_outputs_beside_the_losses(w: keras.Variable, measure: Any) -> None:
    mark = pt.Features()

    def losses() -> Any:
        hidden = mark(w * 1.0) if measure == "features" else w * 1.0
        return {"a": ops.sum(hidden**2)}, {"hidden": hidden, "note": "text", "none": None}

    grads = pt.gradients(losses, [w], measure=measure)
    np.testing.assert_allclose(ops.convert_to_numpy(grads.outputs["hidden"]), [1.0, 2.0])
    assert (grads.outputs["note"], grads.outputs["none"]) == ("text", None)
    if BACKEND == "torch":
        assert not grads.outputs["hidden"].requires_grad


@pytest.mark.skipif(BACKEND != "jax", reason="jit is JAX's")
def test_outputs_out_of_jit(w: keras.Variable) -> None:
    import jax

    @jax.jit
    def step(value: Any) -> Any:
        with keras.StatelessScope([(w, value)]):
            return pt.gradients(lambda: ({"a": w[0] * w[1]}, w * 3.0), [w]).outputs

    np.testing.assert_allclose(step(w.value), [3.0, 6.0])


def test_a_list_of_losses(w: keras.Variable) -> None:
    for kind in (list, tuple):
        grads = pt.gradients(lambda kind=kind: kind([w[0] ** 2, -w[0] * w[1]]), [w])
        assert list(grads.losses) == ["0", "1"]
    grads = pt.gradients(lambda: ([w[0] ** 2, w[1]], w * 2.0), [w])
    assert list(grads.losses) == ["0", "1"]
    assert numbers([grads.outputs]) == [[2.0, 4.0]]


def test_what_is_no_losses_is_described_without_its_content(w: keras.Variable) -> None:
    wide = ops.ones((1000, 7))
    with pytest.raises(TypeError, match=r"one tensor of shape \(1000, 7\). .* return losses, out"):
        pt.gradients(lambda: wide, [w])
    with pytest.raises(ValueError, match=r"'1' is not a scalar. Received shape: \(1000, 7\)"):
        pt.gradients(lambda: (w[0], wide), [w])
    with pytest.raises(TypeError, match="'a' is not a tensor") as found:
        pt.gradients(lambda: {"a": {"p": wide}}, [w])
    assert len(str(found.value)) < 400


# ------------------------------------------------------------------ who trains what


class Three:
    """An encoder, a decoder on it and a critic of what the decoder makes, each one number."""

    def __init__(self) -> None:
        names = ("encoder", "decoder", "critic")
        self.e, self.d, self.c = (
            keras.Variable([float(i + 1)], name=name) for i, name in enumerate(names)
        )

    def losses(self) -> dict[str, Any]:
        image = self.e * self.d
        return {
            "fit": ops.sum((image - 5.0) ** 2),
            "fool": ops.sum(self.c * image),
            "size": ops.sum(self.e**2),
            "critic": ops.sum(-self.c * ops.stop_gradient(image) + self.c**2),
        }

    @property
    def all(self) -> list[keras.Variable]:
        return [self.e, self.d, self.c]


def test_three_networks_with_losses_of_their_own() -> None:
    nets = Three()
    grads = pt.gradients(nets.losses, nets.all)
    # e = 1, d = 2, c = 3: fit (e d - 5)^2, fool c e d, size e^2, critic -c e d + c^2
    encoder = grads.combine("sum", losses=["fit", "size"], variables=[nets.e])
    decoder = grads.combine("sum", losses=("fit", "fool"), variables=[nets.d])
    critic = grads.combine("sum", losses="critic", variables=[nets.c])
    assert numbers(encoder + decoder + critic) == [[-12.0 + 2.0], [-6.0 + 3.0], [-2.0 + 6.0]]
    whole = grads.combine("sum")
    assert numbers(whole) == [[-12.0 + 6.0 + 2.0], [-6.0 + 3.0], [2.0 - 2.0 + 6.0]]


def test_a_method_sees_only_what_was_chosen() -> None:
    nets = Three()
    grads = pt.gradients(nets.losses, nets.all)
    # By the encoder fit pulls by -12 and fool by 6: of opposed rows MGDA makes nothing. The decoder
    # is fit's alone here, so it takes fit's own gradient.
    found = grads.combine("mgda", losses=["size", "fit"], variables=[nets.d, nets.e])
    np.testing.assert_allclose(numbers(found)[1], [0.0], atol=1e-5)
    assert numbers(found)[0] == [-6.0]
    alone = pt.gradients(lambda: {k: nets.losses()[k] for k in ("size", "fit")}, [nets.d, nets.e])
    assert numbers(found) == numbers(alone.combine("mgda"))


def test_a_combiner_for_each_network() -> None:
    nets = Three()
    parts = {"e": pt.Combiner("dwa"), "d": pt.Combiner(pt.Smoothed(pt.UPGrad()))}
    for _ in range(2):
        grads = pt.gradients(nets.losses, nets.all)
        first = grads.combine(parts["e"], losses=["fit", "size"], variables=[nets.e])
        second = grads.combine(parts["d"], losses=["fit", "fool"], variables=[nets.d])
    assert (len(first), len(second)) == (1, 1)
    assert [int(part.steps.value) for part in parts.values()] == [2, 2]
    with pytest.raises(ValueError, match="Use one Combiner for each set"):
        grads.combine(parts["d"], variables=[nets.e])


def test_routes_at_the_features() -> None:
    nets, mark = Three(), pt.Features()

    def losses() -> dict[str, Any]:
        code = mark(nets.e * 1.0)
        image = code * nets.d
        return {
            "fit": ops.sum((image - 5.0) ** 2),
            "size": ops.sum(code**2),
            "critic": ops.sum(nets.c * image),
        }

    grads = pt.gradients(losses, nets.all, measure="features")
    found = grads.combine("sum", losses=["fit", "size"], variables=[nets.e])
    assert numbers(found) == [[-10.0]]
    assert numbers(grads.combine("sum", losses="critic", variables=[nets.c])) == [[2.0]]
    assert isinstance(grads, pt.Gradients)


def test_routes_that_lead_nowhere() -> None:
    nets = Three()
    grads = pt.gradients(nets.losses, nets.all)
    cases = [
        ({"losses": ["fitt"]}, r"'fitt', which is not an objective. Did you mean .*fit"),
        ({"losses": []}, r"each objective that counts once. Received: \[\]"),
        ({"losses": ["fit", "fit"]}, "each objective that counts once"),
        ({"variables": [keras.Variable(1.0, name="x")]}, r"'x', by which no gradients were taken"),
        (
            {"losses": ["fit", "critic"], "variables": [nets.e]},
            r"'critic' reaches none of the 1 variables .*: encoder. It reaches critic",
        ),
    ]
    for options, text in cases:
        with pytest.raises(ValueError, match=text):
            grads.combine("sum", **options)


# ------------------------------------------------------------------ constants are no state


@pytest.mark.parametrize("last", [pt.Sum(), pt.UPGrad(), pt.PerVariable(pt.Normalize())])
def test_constant_weights_need_no_combiner(w: keras.Variable, last: pt.Method) -> None:
    method = pt.Chain(pt.Reweight({"a": 0.7, "b": 0.3}), last)
    for _ in range(2):
        grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
        found = grads.combine(method)
    expected = pt.Combiner(method)(grads)
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-6)


def test_what_changes_is_refused_by_name(w: keras.Variable) -> None:
    grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    cases = [
        (pt.Chain(pt.Reweight({"a": decay}), pt.Sum()), r"Reweight in Chain depends on the number"),
        (pt.Chain(pt.Reweight({"a": 0.5}), pt.Smoothed(pt.MGDA())), "Smoothed in Chain keeps a st"),
        (pt.DTP({"a": "acc"}), "DTP keeps a state"),
        (pt.MoCo(), "MoCo keeps a state"),
        (pt.FAMO(), "FAMO keeps a state"),
        (pt.RandomWeights(), "RandomWeights draws random numbers"),
    ]
    for method, text in cases:
        with pytest.raises(ValueError, match=text + r".*Make a pt.Combiner once"):
            grads.combine(method)


# ------------------------------------------------------------------ variables and their names


def dense(name: str) -> keras.Sequential:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")], name=name)


def test_variables_in_any_form() -> None:
    one, two = dense("one"), dense("two")
    x = ops.ones((3, 2))

    def losses() -> dict[str, Any]:
        return {"a": ops.mean(one(x)), "b": ops.mean(one(x) * two(x))}

    listed = pt.gradients(losses, one.trainable_variables + two.trainable_variables)
    forms = [[one, two], {"first": one, "second": two}, (v for n in (one, two) for v in n.weights)]
    for form in forms:
        grads = pt.gradients(losses, form)
        assert numbers(grads["b"]) == numbers(listed["b"])
    paths = pt.gradients(losses, {"first": one, "second": two}).connectivity.paths
    assert paths == ("first/out/kernel", "first/out/bias", "second/out/kernel", "second/out/bias")
    named = {"x/kernel": one.weights[0], "bias": one.weights[1]}
    assert pt.gradients(losses, named).connectivity.paths == ("x/kernel", "bias")
    update = pt.gradients(losses, forms[1]).combine("sum", variables=two, losses="b")
    assert len(update) == 2


def test_what_is_no_variable(w: keras.Variable) -> None:
    still = keras.Variable(1.0, trainable=False, name="still")
    norm = keras.layers.BatchNormalization()
    norm.build((None, 2))
    cases: list[tuple[Any, type[Exception], str]] = [
        ([w, still], ValueError, r"'still', which is frozen \(trainable=False\).* Leave it out"),
        (norm.weights, ValueError, r"moving_mean', which is frozen"),
        ([np.ones(2)], TypeError, "takes variables: of Keras, .* of type ndarray"),
        ([w, "kernel"], TypeError, "Received: 'kernel' of type str"),
        ([keras.layers.Dense(2, name="d")], ValueError, "'d', which was never called"),
        ({"a": w, "b": w}, ValueError, "'b' twice, as number 0 and 1"),
    ]
    for given, error, text in cases:
        with pytest.raises(error, match=text):
            pt.gradients(lambda: {"a": w[0]}, given)


def test_something_of_another_framework(w: keras.Variable) -> None:
    other = {"torch": "tensorflow", "tensorflow": "torch", "jax": "torch"}[BACKEND]
    shown = {"torch": "PyTorch", "tensorflow": "TensorFlow"}[other]
    foreign = type("Parameter", (), {"__module__": f"{other}.nn.parameter"})()
    text = rf"an object of {shown} \(Parameter\), and Keras runs on .* Set KERAS_BACKEND={other} be"
    with pytest.raises(TypeError, match="pt.gradients got " + text):
        pt.gradients(lambda: {"a": w[0]}, [foreign])
    with pytest.raises(TypeError, match="The loss of objective 'a' is " + text):
        pt.gradients(lambda: {"a": foreign}, [w])
    with pytest.raises(TypeError, match="pt.Model.wrap takes a Keras model, and this is " + text):
        pt.Model.wrap(foreign)


# ------------------------------------------------------------------ the README's own lines


def test_the_loops_of_the_readme() -> None:
    """The code blocks of "In a loop of your own" that this backend can run, as they are printed."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## In a loop of your own") : text.index("## What you can rely on")]
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 4
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(1)(inputs), keras.layers.Dense(4)(inputs)]
    x, y = ops.ones((8, 4)), ops.zeros((8, 1))
    known: dict[str, Any] = {
        "keras": keras,
        "pt": pt,
        "model": keras.Model(inputs, heads),
        "optimizer": keras.optimizers.Adam(),
        "digit_loss": keras.losses.MeanSquaredError(),
        "image_loss": keras.losses.MeanSquaredError(),
        "batches": [(x, y)] * 2,
        "loss_a": lambda y, p: ops.mean((p[0] - y) ** 2),
        "loss_b": lambda y, p: ops.mean(p[1] ** 2),
    }
    known.update(x=x, y=y)
    exec(blocks[0], known)
    assert set(known["logs"]) == {"digit", "image"}
    known["optimizer"] = keras.optimizers.Adam()
    exec(blocks[1], known)
    assert known["grads"].cosines.shape == (2, 2)
    if BACKEND == "tensorflow":
        exec(blocks[2], {**known, "optimizer": keras.optimizers.Adam()})
    if BACKEND == "torch":
        import torch

        encoder, decoder = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
        known.update(encoder=encoder, decoder=decoder, combiner=pt.Combiner("upgrad"))
        known["losses"] = lambda: {
            "fit": ((decoder(encoder(x)) - x) ** 2).mean(),
            "size": (encoder(x) ** 2).mean(),
        }
        known["optimizer"] = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()])
        exec(blocks[3], known)
