"""`pt.Combiner`: a method with its state, in a loop of one's own."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from linear import objective, random_rows, updates, variables_of

pytestmark = pytest.mark.engine
ROWS = random_rows()


def gradients(seed: int = 0, names: str = "abc") -> pt.Gradients:
    rows = random_rows(seed, len(names))
    variables = variables_of(rows)
    return pt.gradients(objective(rows, variables, names), variables)


def arrays(update: list) -> list[np.ndarray]:
    return [ops.convert_to_numpy(part) for part in update]


def test_state_moves_on() -> None:
    combiner = pt.Combiner(pt.Smoothed(pt.Normalize(), decay=0.5))
    before = arrays(combiner(gradients(0)))
    assert int(combiner.steps.value) == 1
    after = arrays(combiner(gradients(1)))
    fresh = arrays(pt.Combiner(combiner.method)(gradients(1)))
    assert int(combiner.steps.value) == 2
    assert not np.allclose(after[0], fresh[0])
    assert not np.allclose(after[0], before[0])


def test_random_numbers_follow_seed_and_step() -> None:
    def run(seed: int) -> list[np.ndarray]:
        combiner = pt.Combiner("randomweights", seed=seed)
        return [arrays(combiner(gradients()))[0] for _ in range(2)]

    one, again, other = run(3), run(3), run(4)
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one[0], one[1])
    assert not np.allclose(one[0], other[0])


def test_config_round_trip() -> None:
    method = pt.Chain(pt.Reweight({"a": 0.5}), pt.GlobalClip(pt.MGDA(), 2.0))
    combiner = pt.Combiner(method, private="weighted", seed=7, name="mine")
    again = pt.Combiner.from_config(combiner.get_config())
    assert (again.method, again.private, again.seed, again.name) == (method, "weighted", 7, "mine")


def test_prepare_makes_the_state_before_the_first_call() -> None:
    combiner = pt.Combiner("dwa")
    variables = variables_of(ROWS)
    assert not combiner.variables
    combiner.prepare(["a", "b", "c"], variables)
    known = [v.path for v in combiner.variables]
    assert len(known) > 1
    combiner(pt.gradients(objective(ROWS, variables), variables))
    assert [v.path for v in combiner.variables] == known
    assert not combiner.trainable_variables


def test_other_objectives_are_refused() -> None:
    combiner = pt.Combiner("sum")
    combiner(gradients())
    text = r"state of objectives \('a', 'b', 'c'\) over 3 .* Received gradients of \('a', 'b'\)"
    with pytest.raises(ValueError, match=text):
        combiner(gradients(names="ab"))


def test_only_gradients_are_taken() -> None:
    with pytest.raises(
        TypeError, match=r"takes what pt.gradients\(...\) returned. Received: an .* list"
    ):
        pt.Combiner("sum")([1.0])


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("upgrd", ValueError, r"Unknown method: 'upgrd'. Did you mean \"upgrad\""),
        (pt.UPGrad, TypeError, r"as in combine=pt.UPGrad\(\). Received the class UPGrad itself"),
        (3, TypeError, r"Expected the name of a method.*Received: 3 of type int"),
    ],
)
def test_bad_methods(method: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pt.Combiner(method)


def test_bad_private() -> None:
    with pytest.raises(ValueError, match=r"one of \('own', 'weighted', 'joint'\). Received: 'all'"):
        pt.Combiner("sum", private="all")


def test_private_variables() -> None:
    """`encoder` is shared by a and b; `decoder/kernel` belongs to b alone."""
    rows = {path: columns[:2] for path, columns in random_rows().items()}
    rows["decoder/kernel"][0] = None
    own = rows["decoder/kernel"][1]
    shared = np.concatenate([rows["encoder/kernel"][1].ravel(), rows["encoder/bias"][1]])
    whole = np.concatenate([shared, own])
    expected = {
        "own": own,
        "weighted": own / np.linalg.norm(shared),
        "joint": own / np.linalg.norm(whole),
    }
    for private, right in expected.items():
        found = updates(pt.Normalize(), rows, names="ab", private=private)
        np.testing.assert_allclose(found[2], right, rtol=1e-5)


def test_non_finite_objectives_are_left_out_and_never_enter_the_state() -> None:
    bad = random_rows(1)
    bad["encoder/bias"][1] = np.full((3,), np.nan)
    method = pt.Smoothed(pt.Normalize(), decay=0.5)
    found = updates(method, ROWS, bad, random_rows(2))
    assert all(np.isfinite(part).all() for part in found)
    during = updates(method, ROWS, bad)
    without = {path: [c[0], c[2]] for path, c in bad.items()}
    start = {path: [c[0], c[2]] for path, c in ROWS.items()}
    for one, other in zip(during, updates(method, start, without, names="ac"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_nothing_finite_gives_a_zero_update() -> None:
    bad = {path: [np.full_like(row, np.inf) for row in c] for path, c in ROWS.items()}
    for part in updates("pcgrad", ROWS, bad):
        np.testing.assert_array_equal(part, 0.0)


@keras.saving.register_keras_serializable(package="tests")
class Holder(keras.Model):
    """A user's own model that keeps a combiner."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)
        self.combiner = pt.Combiner(pt.Smoothed(pt.MGDA()))

    def build(self, shape: tuple) -> None:
        self.dense.build(shape)
        self.combiner.prepare(["left", "right"], self.dense.trainable_variables)

    def call(self, x: object) -> object:
        return self.dense(x)

    def learn(self, x: np.ndarray) -> None:
        def losses() -> dict[str, object]:
            out = self(x)
            return {"left": ops.mean(out[:, 0] ** 2), "right": ops.mean((out - 1.0) ** 2)}

        variables = self.dense.trainable_variables
        grads = pt.gradients(losses, variables)
        for variable, direction in zip(variables, self.combiner(grads), strict=True):
            variable.assign(variable - 0.1 * direction)


def test_saved_inside_a_model_and_resumed_bit_for_bit(tmp_path) -> None:
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    model = Holder()
    model(x)
    for _ in range(2):
        model.learn(x)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for one in (model, again):
        one.learn(x)
    assert int(again.combiner.steps.value) == 3
    assert len(model.variables) == len(again.variables) > 4
    for mine, theirs in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (mine.value, theirs.value)))
