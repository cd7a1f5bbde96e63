"""Loss scaling in loops of one's own: whoever scales learns of an overflow, and it goes on."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

pytestmark = pytest.mark.engine
BACKEND = keras.backend.backend()
# The sum, but row by row: each row overflows on its own, though at the end they cancel.
ROWS = pt.Chain(pt.Clip(1e9), pt.Sum())


def halved(value: Any) -> Any:
    """Forward in half precision: so its gradient overflows once the scale is large."""
    return ops.cast(ops.cast(value, "float16"), "float32")


class Toy:
    """Two losses of one variable, minimal at -1 and 3, whose sum is minimal at 1."""

    def __init__(self, optimizer: Any) -> None:
        self.w = keras.Variable([5.0], name="w")
        self.optimizer = optimizer
        optimizer.build([self.w])

    def losses(self) -> dict[str, Any]:
        half = halved(self.w)
        return {"a": ops.sum((half + 1.0) ** 2), "b": ops.sum((half - 3.0) ** 2)}

    def step(self, method: Any = "upgrad", **options: Any) -> list[Any]:
        grads = pt.gradients(self.losses, [self.w], **options)
        update = grads.combine(method)
        if BACKEND == "jax":  # Keras's LossScaleOptimizer skips steps in this form only
            state = [v.value for v in self.optimizer.variables]
            after = self.optimizer.stateless_apply(state, update, [self.w.value])
            for variable, value in zip(
                [self.w, *self.optimizer.variables], [*after[0], *after[1]], strict=True
            ):
                variable.assign(value)
        else:
            self.optimizer.apply(update, [self.w])
        return update


def scaling(scale: float, steps: int = 2000, rate: float = 0.05) -> Any:
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(rate), initial_scale=scale, dynamic_growth_steps=steps
    )


def number(value: Any) -> float:
    return float(ops.convert_to_numpy(value).reshape(-1)[0])


@pytest.mark.parametrize("method", ["sum", "upgrad", pt.Chain(pt.Normalize(), pt.Mean())])
def test_a_scaled_step_is_the_unscaled_one(method: Any) -> None:
    plain, scaled = Toy(keras.optimizers.SGD(0.05)), Toy(scaling(1024.0))
    grads = pt.gradients(scaled.losses, [scaled.w], scale=scaled.optimizer.scale_loss)
    other = pt.gradients(plain.losses, [plain.w])
    for name in ("norms", "gramian", "cosines"):
        one, two = (ops.convert_to_numpy(getattr(g, name)) for g in (grads, other))
        np.testing.assert_allclose(one, two, rtol=1e-5)
    assert number(grads["a"][0]) == 1024.0 * number(other["a"][0])
    scaled.step(method, scale=scaled.optimizer.scale_loss)
    plain.step(method) if BACKEND != "jax" else plain.optimizer.apply(
        other.combine(method), [plain.w]
    )
    assert number(scaled.w) == pytest.approx(number(plain.w), rel=1e-5)


@pytest.mark.parametrize("combined", [True, False])
def test_an_overflow_is_handed_on_and_nothing_else_changes(combined: bool) -> None:
    toy = Toy(scaling(2.0**15))
    grads = pt.gradients(toy.losses, [toy.w], scale=toy.optimizer.scale_loss)
    combiner = pt.Combiner(pt.Smoothed(pt.UPGrad()))
    update = combiner(grads) if combined else grads.combine("upgrad")
    assert np.isnan(number(update[0]))
    state = [ops.convert_to_numpy(v) for v in combiner.variables if "weights" in v.path]
    assert all((value == 0.0).all() for value in state)
    toy.step(scale=toy.optimizer.scale_loss)
    assert (number(toy.w), number(toy.optimizer.dynamic_scale)) == (5.0, 2.0**14)


@pytest.mark.parametrize("method", ["sum", "dwa", "upgrad"])
def test_a_gradient_whose_square_is_infinite_is_an_overflow(method: str) -> None:
    """Finite, but above 1.8e19: Adam would keep its square. As in `fit`."""
    w = keras.Variable([5.0])

    def losses() -> dict[str, Any]:
        return {"a": ops.sum((w + 1.0) ** 2), "b": ops.sum((w - 3.0) ** 2)}

    combiner = pt.Combiner(method)
    assert np.isnan(number(combiner(pt.gradients(losses, [w], scale=2.0**66))[0]))
    assert np.isfinite(number(combiner(pt.gradients(losses, [w], scale=2.0**50))[0]))


def test_one_overflowing_loss_of_two_is_enough() -> None:
    w = keras.Variable([5.0])
    grads = pt.gradients(
        lambda: {"a": ops.sum(halved(w) * 1000.0), "b": ops.sum(w)}, [w], scale=1000.0
    )
    assert np.isnan(number(grads.combine("sum")[0]))
    bad = pt.gradients(lambda: {"a": ops.sum(w) * float("nan"), "b": ops.sum(w)}, [w], scale=1000.0)
    assert number(bad.combine("sum")[0]) == 1000.0  # no overflow: "a" is left out, as without scale


def test_a_thousand_steps() -> None:
    """The scale grows every fifth step until it overflows, and comes down again."""
    toy = Toy(scaling(2.0**15, steps=5, rate=0.02))
    step = pt.compiled_step(toy.losses, toy.optimizer, ROWS, toy.w)
    scales = []
    for _ in range(1000):
        losses = step()
        scales.append(number(toy.optimizer.dynamic_scale))
    assert max(scales[100:]) <= 2.0**17
    assert min(scales) >= 2.0**7
    assert len({*scales}) > 2
    assert number(toy.w) == pytest.approx(1.0, abs=1e-2)
    assert number(losses["a"]) == pytest.approx(4.0, abs=0.1)


@pytest.mark.skipif(BACKEND == "jax", reason="LossScaleOptimizer.apply is no use on JAX")
def test_many_steps_by_hand() -> None:
    toy = Toy(scaling(2.0**15, steps=5, rate=0.02))
    for _ in range(300 if BACKEND == "torch" else 100):
        toy.step(ROWS, scale=toy.optimizer.scale_loss)
    assert number(toy.optimizer.dynamic_scale) <= 2.0**17
    assert number(toy.w) == pytest.approx(1.0, abs=1e-1)


@pytest.mark.skipif(BACKEND != "torch", reason="GradScaler is PyTorch's")
def test_the_scaler_of_pytorch() -> None:
    import torch

    w = torch.nn.Parameter(torch.tensor([5.0]))
    optimizer = torch.optim.SGD([w], 0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, growth_interval=5)
    combiner = pt.Combiner(ROWS)

    def losses() -> dict[str, Any]:
        half = w.half().float()
        return {"a": ((half + 1.0) ** 2).sum(), "b": ((half - 3.0) ** 2).sum()}

    for _ in range(400):
        (w.grad,) = combiner(pt.gradients(losses, {"w": w}, scale=scaler.scale))
        scaler.step(optimizer)
        scaler.update()
    assert 2.0**7 <= scaler.get_scale() <= 2.0**17
    assert w.item() == pytest.approx(1.0, abs=1e-2)


def test_under_mixed_float16_a_missing_scale_is_told() -> None:
    w = keras.Variable([5.0])
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.warns(UserWarning, match=r"Give scale=optimizer.scale_loss, .* or scale=1.0"):
            pt.gradients(lambda: {"a": ops.sum(w)}, [w])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pt.gradients(lambda: {"a": ops.sum(w)}, [w], scale=1.0)
    finally:
        keras.config.set_dtype_policy("float32")


def test_what_is_no_scale() -> None:
    w = keras.Variable([5.0])
    for scale in ("x", True, keras.optimizers.SGD()):
        with pytest.raises(
            TypeError, match=r"is what scales a loss: optimizer.scale_loss of Keras"
        ):
            pt.gradients(lambda: {"a": ops.sum(w)}, [w], scale=scale)
    with pytest.raises(ValueError, match=r"is one number. Received shape: \(2,\)"):
        pt.gradients(lambda: {"a": ops.sum(w)}, [w], scale=ops.ones((2,)))
