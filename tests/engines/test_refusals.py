"""What `pt.gradients` refuses, and how it says it."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt


@pytest.fixture(scope="module")
def w() -> keras.Variable:
    return keras.Variable([1.0, 2.0], name="w")


def test_no_variables() -> None:
    with pytest.raises(ValueError, match=r"pt.gradients got no variables. A model that was never"):
        pt.gradients(lambda: {"a": ops.ones(())}, [])


def test_not_a_scalar(w: keras.Variable) -> None:
    text = r"The loss of objective 'b' is not a scalar. Received shape: \(2,\). Reduce it"
    with pytest.raises(ValueError, match=text):
        pt.gradients(lambda: {"a": ops.sum(w * 2.0), "b": w * 2.0}, [w])


@pytest.mark.parametrize("answer", [None, 1.0, [], {}])
def test_not_a_dict(w: keras.Variable, answer: object) -> None:
    with pytest.raises(TypeError, match=r'must return a dict \{"name": scalar loss\}.*Received: '):
        pt.gradients(lambda: answer, [w])


def test_not_a_tensor(w: keras.Variable) -> None:
    text = r"The loss of objective 'a' is not a tensor. Received: 3.0 of type float"
    with pytest.raises(TypeError, match=text):
        pt.gradients(lambda: {"a": 3.0}, [w])


@pytest.mark.parametrize("cut", ["stop_gradient", "argmax", "constant"])
def test_objective_that_reaches_nothing_is_named(w: keras.Variable, cut: str) -> None:
    cuts = {
        "stop_gradient": lambda: ops.sum(ops.stop_gradient(w * 1.0)),
        "argmax": lambda: ops.cast(ops.argmax(w), "float32"),
        "constant": lambda: ops.convert_to_tensor(np.float32(2.0)),
    }
    with pytest.raises(ValueError, match=r"Objective 'b' reaches no trainable variable"):
        pt.gradients(lambda: {"a": ops.sum(w * 2.0), "b": cuts[cut]()}, [w])


def test_one_variable_twice(w: keras.Variable) -> None:
    with pytest.raises(ValueError, match=r"pt.gradients got the variable 'w' twice, .* 0 and 1: "):
        pt.gradients(lambda: {"a": ops.sum(w * 2.0)}, [w, w])


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it works there")
def test_tape_says_how_it_is_written_elsewhere() -> None:
    text = r"Keras runs on (jax|torch). [^$]* grads = pt.gradients\(losses, variables\)\n"
    with pytest.raises(RuntimeError, match=text):
        pt.GradientTape()


def test_computed_outside(w: keras.Variable) -> None:
    outside = ops.sum(w * 2.0)
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch records everywhere: the loss has its path")
    with pytest.raises(ValueError, match=r"'a' reaches no .* computed outside the step"):
        pt.gradients(lambda: {"a": outside}, [w])
