"""Directions beside the Pareto front, regularisation, and promises at the ends of float32.

Where gradients are an angle away from cancelling each other out, the update is that much shorter
than they are. Rows in float32 leave 2e-7, divided by that angle, of its direction.
"""

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled
from near_front import EXACT, Array, apart, gradients, near_front, opposed, unit

pytestmark = pytest.mark.engine
ANGLES = (1e-2, 1e-3, 1e-4, 1e-5)
ROUNDING = 8e-7  # four times what a typical case needs


def direction(combiner: pt.Combiner, rows: Array, variable: Any = None) -> Array:
    if variable is None:
        variable = keras.Variable(np.zeros(rows.shape[1], "float32"), name="w")
    return ops.convert_to_numpy(combiner(gradients(rows, variable))[0]).astype("float64")


@cache
def weigher(method: Any) -> Any:
    return compiled(lambda gramian, losses: pt.weigh(method, gramian, losses)[0])


def weights_of(method: Any, gramian: Array, losses: Any = None) -> Array:
    given = np.ones(len(gramian)) if losses is None else losses
    tensors = (ops.convert_to_tensor(np.float32(value)) for value in (gramian, given))
    return ops.convert_to_numpy(weigher(method)(*tensors)).astype("float64")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_exact_beside_the_front_in_a_loop(name: str, count: int) -> None:
    combiner, variable = pt.Combiner(name), keras.Variable(np.zeros(8, "float32"), name="w")
    for seed, angle in enumerate(ANGLES):
        rows = near_front(count, angle, seed)
        found = apart(direction(combiner, rows, variable), EXACT[name](rows))
        # Aligned-MTL measures all in units of the longest row, the others each row in its own.
        room = 4 if name == "alignedmtl" else 1
        assert found < room * ROUNDING / angle, (
            f"angle {angle}: {found} rad from the exact direction"
        )


@pytest.mark.parametrize("name", ["mgda", "upgrad", "dualproj", "imtlg", "config"])
def test_two_gradients_need_no_more_than_their_gramian(name: str) -> None:
    for seed, angle in enumerate(ANGLES):
        rows = opposed(angle, seed=seed).astype("float64")
        found = apart(weights_of(name, rows @ rows.T) @ rows, EXACT[name](rows))
        assert found < ROUNDING / angle, f"angle {angle}: {found} rad from the exact direction"


class Kernel:
    """A model of one kernel w and objectives whose gradients by it are these rows, exactly."""

    def __init__(self, rows: Array) -> None:
        count, width = rows.shape
        inputs = keras.Input((width,))
        shared = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
        names = [f"o{index}" for index in range(count)]
        self.model = pt.Model(inputs, {n: keras.layers.Identity(name=n)(shared) for n in names})
        self.loss = dict.fromkeys(names, self.product)
        # The width is a power of two: means over the batch are exact.
        self.x = np.eye(width, dtype="float32")
        self.y = {n: width * row[:, None] for n, row in zip(names, rows, strict=True)}

    @staticmethod
    def product(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(y_true * y_pred, axis=-1)

    def direction(self, method: Any, **options: Any) -> Array:
        self.model.compile(keras.optimizers.SGD(1.0), self.loss, combine=method, **options)
        self.model.fit(self.x, self.y, batch_size=len(self.x), verbose=0)
        return -ops.convert_to_numpy(self.model.trainable_variables[0])[:, 0].astype("float64")


def test_exact_beside_the_front_in_fit() -> None:
    rows = near_front(3, 1e-4)
    found = Kernel(rows).direction("upgrad")
    assert apart(found, EXACT["upgrad"](rows)) < ROUNDING / 1e-4


@pytest.mark.parametrize(
    "method",
    [
        pt.Chain(pt.Normalize(), pt.UPGrad()),
        pt.Every(pt.UPGrad(), steps=2),
        pt.PerVariable(pt.UPGrad()),
        pt.GlobalClip(pt.UPGrad(), 1e3),
    ],
    ids=lambda method: type(method).__name__,
)
def test_exact_beside_the_front_behind_other_stages(method: pt.Method) -> None:
    rows = near_front(3, 1e-4)
    seen = unit(rows) if isinstance(method, pt.Chain) else rows
    found = Kernel(rows).direction(method, run_eagerly=True)
    assert apart(found, EXACT["upgrad"](seen)) < ROUNDING / 1e-4


def test_an_objective_without_a_finite_gradient_does_not_spoil_the_closer_look() -> None:
    rows = near_front(3, 1e-4)
    with_nan = np.vstack([rows[:1], np.full_like(rows[:1], np.nan), rows[1:]])
    found = direction(pt.Combiner("upgrad"), with_nan)
    assert apart(found, EXACT["upgrad"](rows)) < ROUNDING / 1e-4


@pytest.mark.parametrize("name", ["mgda", "upgrad", "imtlg"])
def test_adam_is_not_led_along_the_front(name: str) -> None:
    """Of the update -0.076 were along the front here, and Adam makes a full step of anything."""
    rows = np.float32([[0.13993, 1e-6], [-1.3993, 1e-5]])
    found = unit(direction(pt.Combiner(name), rows))
    assert abs(found[0]) < 0.03
    assert found[1] > 0


@pytest.mark.parametrize("name", ["config", "imtlg"])
def test_nearly_opposed_gradients_are_no_reason_to_stop(name: str) -> None:
    found = direction(pt.Combiner(name), opposed(1e-4, 1.0))
    assert np.linalg.norm(found) > 1e-5


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["config", "imtlg", "mconfig"])
def test_doubling_a_loss_turns_no_direction(name: str, count: int) -> None:
    rows = near_front(count, 1e-4, seed=5)
    twice = rows.copy()
    twice[0] *= 2
    combiners = pt.Combiner(name), pt.Combiner(name)
    one, other = (direction(*pair) for pair in zip(combiners, (rows, twice), strict=True))
    assert apart(one, other) < 2 * ROUNDING / 1e-4
    assert apart(one, EXACT["config"](rows)) < ROUNDING / 1e-4


def test_exactly_opposed_gradients_of_one_length_cancel_out() -> None:
    row = np.float32(np.random.default_rng(0).normal(size=8))
    for name in ("mgda", "upgrad", "dualproj", "imtlg", "config"):
        assert np.linalg.norm(direction(pt.Combiner(name), np.stack([row, -row]))) < 1e-6


def solved_and_unsolved() -> Array:
    """Gradients of examples: some all but solved, in conflict with those that are not."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 8)) + 1.0
    rows[3:] = 1e-6 * (rng.normal(size=(3, 8)) - 1.0)
    return rows


@pytest.mark.parametrize("method", [pt.UPGrad, pt.DualProj])
def test_regularization_is_that_of_published_code(method: type[Any]) -> None:
    """The trace's share on the diagonal of the programme, in float64."""
    rows = solved_and_unsolved()
    gramian = rows @ rows.T
    padded = np.hstack([rows, np.sqrt(1e-4 * np.trace(gramian)) * np.eye(len(rows))])
    found = weights_of(method(regularization=1e-4), gramian) @ padded
    wanted = EXACT[method.__name__.lower()](padded)
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(found)


@pytest.mark.parametrize("method", [pt.UPGrad, pt.DualProj])
def test_solved_examples_have_no_veto_with_regularization(method: type[Any]) -> None:
    rows = solved_and_unsolved()
    bound, free = (weights_of(method(regularization=s), rows @ rows.T) for s in (0.0, 1e-4))
    assert bound.max() > 1e4
    assert free.max() < 200
    assert (rows[:3] @ (free @ rows) > 0).all()


def test_training_with_an_objective_per_example() -> None:
    """Logistic regression, half of the examples soon solved: then they weigh without bound."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(16, 24)) * np.repeat([4.0, 1.0], 8)[:, None]
    y = np.sign(x @ rng.normal(size=24))

    def train(method: pt.Method) -> tuple[float, float]:
        w, largest = np.zeros(24), 0.0
        for _ in range(60):
            rows = -(y / (1 + np.exp(y * (x @ w))))[:, None] * x
            weights = weights_of(method, rows @ rows.T)
            w, largest = w - rows.T @ weights, max(largest, weights.max())
        return float(np.log1p(np.exp(-y * (x @ w))).mean()), largest

    exact, published = (train(pt.UPGrad(scale="mean", regularization=r)) for r in (0.0, 1e-4))
    assert exact[1] > 1e6
    assert published[1] < 10
    assert published[0] < exact[0]


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_regularization_has_no_scale(factor: float) -> None:
    rows = solved_and_unsolved()[:4]
    method = pt.UPGrad(regularization=1e-3)
    plain, scaled = (weights_of(method, f * (rows @ rows.T)) for f in (1.0, factor))
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_fairgrad_conflicts_with_none_whatever_the_norms() -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        rows = rng.normal(size=(4, 8))
        rows -= rng.choice([0, 0.5, 0.9]) * rows.mean(0)
        rows = unit(rows) * 10.0 ** rng.choice([-11, 5, 11], (4, 1)) * rng.uniform(1, 4, (4, 1))
        lengths = weights_of("fairgrad", rows @ rows.T) * np.linalg.norm(rows, axis=1)
        assert (unit(rows) @ (lengths @ unit(rows)) > -1e-5 * lengths.sum()).all()


def test_epo_does_not_mind_the_order_while_norms_are_within_1e12() -> None:
    rng = np.random.default_rng(1)
    for _ in range(4):
        rows = unit(rng.normal(size=(4, 8))) * 10 ** rng.uniform(-6, 6, (4, 1))
        losses, order = np.float32(10 ** rng.uniform(-1, 1, 4)), rng.permutation(4)
        one = weights_of("epo", rows @ rows.T, losses)
        other = weights_of("epo", (rows @ rows.T)[order][:, order], losses[order])
        away = np.linalg.norm(rows.T @ one - rows[order].T @ other)
        assert away < 1e-4 * (np.linalg.norm(rows, axis=1) @ one)


def test_famo_goes_on_where_all_losses_are_zero() -> None:
    weights, _ = pt.weigh("famo", losses=[0.0, 0.0])
    np.testing.assert_allclose(ops.convert_to_numpy(weights), 1.0)
