"""Arrays that methods keep beside the rows: what enters them, what is saved, what it costs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from compiled import compiled
from linear import objective, random_rows, updates, variables_of
from polytape.contract import Evidence, Method, Need, Observed, State, Tensor
from polytape.engines import engine
from polytape.testing import Trial
from small import LOSSES, arrays, assert_same, data, everything, fill, model

X, Y = data()
INF = {**Y, "b": np.full_like(Y["b"], np.inf)}
METHODS = {
    "MoCo": pt.MoCo(),
    "DBMTL": pt.DBMTL(),
    "ExcessMTL": pt.ExcessMTL(rate=0.5),
    "LRAnnealing": pt.LRAnnealing(),
    "MConFIG": pt.MConFIG(),
    "chain": pt.Chain(pt.Reweight({"b": 0.3}), pt.MoCo()),
}


@dataclass(frozen=True)
class CountsEverything(Method):
    """Keeps the sum of all rows and counts steps, whoever is active."""

    needs: ClassVar[Need] = "rows"
    memory: ClassVar[tuple[str, ...] | None] = ("count", "total")

    def observe(
        self, rows: Tensor, memory: dict[str, Tensor], evidence: Evidence, state: State
    ) -> Observed:
        kept = {"count": memory["count"] + 1.0, "total": memory["total"] + rows}
        return Observed(rows, kept)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.ones_like(evidence.losses), state


def net(method: Any, optimizer: Any = "sgd", **options: Any) -> keras.Model:
    found = model()
    found.compile(optimizer, LOSSES, combine=method, **options)
    return found


def held(owner: Any, name: str) -> list[np.ndarray]:
    return arrays([v for v in owner.variables if v.name.endswith("_" + name)])


def test_an_objective_without_a_label_keeps_its_memory() -> None:
    found = net(CountsEverything())
    for y in (Y, INF, Y):
        found.train_on_batch(X, y)
    count, total = held(found.method_state, "count"), held(found.method_state, "total")
    for part in count[:2]:  # the trunk
        assert (part == np.array([[3], [2], [3]])).all()
    assert all(np.isfinite(part).all() for part in total)
    assert not any(part.any() for part in count[2:])  # heads are private


@pytest.mark.parametrize("how", ["skip", "nothing left"])
def test_a_step_that_is_not_taken_leaves_no_trace(how: str) -> None:
    found = net(pt.MoCo(), on_nonfinite="skip" if how == "skip" else "drop")
    found.train_on_batch(X, Y)
    known = [
        *found.trainable_variables,
        *found.optimizer.variables,
        *found.method_state.variables,
    ]
    before = arrays(known)
    found.train_on_batch(X if how == "skip" else np.full_like(X, np.nan), INF)
    assert_same(before, arrays(known))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25], ids=["nan", "inf", "squares overflow"])
@pytest.mark.parametrize("name", ["MoCo", "DBMTL", "ExcessMTL", "MConFIG"])
def test_bad_rows_never_enter(name: str, bad: float) -> None:
    combiner = pt.Combiner(METHODS[name])
    for step in range(4):
        rows = random_rows(step)
        if step in (1, 2):
            rows["encoder/kernel"][1] = np.full((2, 3), bad)
        variables = variables_of(rows)
        before = arrays(combiner.variables)
        update = combiner(pt.gradients(objective(rows, variables), variables))
        assert all(np.isfinite(ops.convert_to_numpy(part)).all() for part in update)
        after = arrays(combiner.variables)
        assert all(np.isfinite(value).all() for value in after)
        if step in (1, 2):
            for old, new in zip(before, after, strict=True):
                if old.ndim == 2:
                    np.testing.assert_array_equal(old[1], new[1])


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_model_goes_on_bit_for_bit(name: str, tmp_path: Any) -> None:
    original = net(METHODS[name], keras.optimizers.Adam(0.01))
    for _ in range(2):
        original.train_on_batch(X, Y)
    original.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(everything(original), everything(loaded))
    for one in (original, loaded):
        for _ in range(3):
            one.train_on_batch(X, Y)
    assert_same(everything(original), everything(loaded))


@pytest.mark.compiled
def test_momentum_config_takes_one_backward_pass_a_step(monkeypatch: Any) -> None:
    weight = keras.Variable(1.0)
    recording: Any = type(engine().record(lambda: ([weight * 1.0], None), lambda: [weight]))
    vjp, calls = recording.vjp, []

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        calls.append(args)
        return vjp(self, *args, **more)

    monkeypatch.setattr(recording, "vjp", counted)
    found, counts = net(pt.MConFIG(), keras.optimizers.Adam(0.01)), []
    for _ in range(3):
        calls.clear()
        found.train_on_batch(X, Y)
        counts.append(len(calls))
    if keras.backend.backend() == "torch":
        assert counts == [3, 1, 1]
    else:  # both ways are traced (by TensorFlow twice): three passes, or one over all losses
        assert counts in ([4, 0, 0], [8, 0, 0])


@pytest.mark.parametrize("name", ["DBMTL", "MConFIG"])
def test_loss_scaling_changes_nothing(name: str) -> None:
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=1024.0)
    one, other = net(METHODS[name], keras.optimizers.SGD(0.01)), net(METHODS[name], scaled)
    for _ in range(4):
        one.train_on_batch(X, Y)
        other.train_on_batch(X, Y)
    pairs = [
        (arrays(one.trainable_variables), arrays(other.trainable_variables)),
        (arrays(one.method_state.variables), arrays(other.method_state.variables)),
    ]
    for first, second in pairs:
        for a, b in zip(first, second, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_regulariser_is_added_and_not_remembered() -> None:
    def regularised(strength: float) -> keras.Model:
        inputs = keras.Input((4,))
        penalty = keras.regularizers.L2(strength) if strength else None
        hidden = keras.layers.Dense(3, kernel_regularizer=penalty, name="trunk")(inputs)
        heads = {n: keras.layers.Dense(1, name=n)(hidden) for n in "ab"}
        found = fill(pt.Model(inputs, heads))
        found.compile(keras.optimizers.SGD(0.1), "mse", combine=pt.DBMTL())
        return found

    y = {n: Y[n] for n in "ab"}
    plain, other = regularised(0.0), regularised(0.5)
    start = arrays(plain.trainable_variables)[0]
    for found in (plain, other):
        found.train_on_batch(X, y)
    moved = [arrays(m.trainable_variables)[0] for m in (plain, other)]
    np.testing.assert_allclose(moved[0] - moved[1], 0.1 * 2 * 0.5 * start, rtol=1e-3, atol=1e-5)
    for one, two in zip(*(held(m.method_state, "total") for m in (plain, other)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_embeddings_are_made_dense(name: str) -> None:
    tokens = np.array([[0, 3, 3], [3, 7, 1]])
    inputs = keras.Input((3,), dtype="int32")
    table = keras.layers.Embedding(8, 4)(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(table)
    heads = {n: keras.layers.Dense(1, name=n)(pooled) for n in "ab"}
    found = fill(pt.Model(inputs, heads))
    found.compile("sgd", "mse", combine=METHODS[name])
    before = arrays(found.trainable_variables)[0]
    for _ in range(3):
        found.train_on_batch(tokens, {n: np.ones((2, 1)) * t for t, n in enumerate("ab")})
    moved = np.abs(arrays(found.trainable_variables)[0] - before).max(axis=1) > 0
    np.testing.assert_array_equal(moved, np.isin(np.arange(8), tokens))
    for kept in found.method_state.variables:
        assert np.isfinite(ops.convert_to_numpy(kept.value)).all()


@pytest.mark.parametrize("name", ["DBMTL", "ExcessMTL", "LRAnnealing", "MConFIG"])
def test_with_nothing_shared(name: str) -> None:
    rows = {"one/kernel": [np.ones(3), None], "other/kernel": [None, np.full(2, 2.0)]}
    found = updates(METHODS[name], rows, names="ab")
    for part, own in zip(found, (np.ones(3), np.full(2, 2.0)), strict=True):
        assert (part / own > 0).all()
        if name != "MConFIG":
            np.testing.assert_allclose(part, own)


def test_in_a_compiled_step_of_ones_own() -> None:
    rows = random_rows()
    variables = variables_of(rows)
    losses = objective(rows, variables)
    eager, combiner = pt.Combiner(pt.MConFIG()), pt.Combiner(pt.MConFIG())
    combiner.prepare([*"abc"], variables)
    state = list(combiner.variables)

    def step(values: list[Any]) -> tuple[list[Any], list[Any]]:
        if keras.backend.backend() != "jax":
            return combiner(pt.gradients(losses, variables)), [v.value for v in state]
        with keras.StatelessScope(list(zip(state, values, strict=True))) as scope:
            update = combiner(pt.gradients(losses, variables))
        return update, [scope.get_current_value(v) for v in state]

    run, values = compiled(step, xla=False), [v.value for v in state]
    for _ in range(3):
        update, values = run(values)
        wanted = eager(pt.gradients(losses, variables))
        for one, two in zip(update, wanted, strict=True):
            one, two = map(ops.convert_to_numpy, (one, two))
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


REFUSED = {
    "gradient stage before": (
        lambda: pt.Chain(pt.Normalize(), pt.MoCo()),
        ValueError,
        r"MoCo sees the rows before anything is weighed, so Normalize cannot stand before it",
    ),
    "inside a wrapper": (
        lambda: pt.Every(pt.DBMTL(), steps=2),
        ValueError,
        r"Every\(DBMTL\(\)\): DBMTL sees the rows themselves in every step, and Every has only a",
    ),
    "a Gramian alone": (
        lambda: pt.weigh(pt.Chain(pt.Reweight(), pt.ExcessMTL()), np.eye(2)),
        ValueError,
        r"ExcessMTL sees the gradients themselves, of which a Gramian .* pt.Combiner or pt.Model",
    ),
    "a trial of a chain": (
        lambda: Trial(pt.Chain(pt.Reweight(), pt.MoCo())),
        TypeError,
        r"A Chain around MoCo cannot be tried without a network.* Try MoCo alone",
    ),
    "a trial without a width": (
        lambda: Trial(pt.MoCo()).start((3,)),
        TypeError,
        r"A method with a memory needs the `width` of its rows",
    ),
    "an unknown reference": (
        lambda: pt.LRAnnealing("d").init(("a", "b")),
        ValueError,
        r"LRAnnealing\(reference_objective='d'\): no objective of that name. Obj.*'a', 'b'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        build()


def test_memory_lies_flat_in_files() -> None:
    """As earlier versions wrote it; in the model it has the shape of its variable."""
    one, other = model(), model()
    for each in (one, other):
        each.compile("sgd", LOSSES, combine="moco")
    one.fit(*data(8), verbose=0)
    store: dict[str, np.ndarray] = {}
    one.method_state.save_own_variables(store)
    own = {v.path: v for v in one.method_state.variables if "memory" in v.path}
    found = {key: np.asarray(value) for key, value in store.items() if "memory" in key}
    assert {v.shape for v in own.values()} >= {(3, 4, 6), (3, 6)}
    assert {array.shape for array in found.values()} >= {(3, 24), (3, 6)}
    other.method_state.load_own_variables(store)
    assert_same(arrays(one.method_state.variables), arrays(other.method_state.variables))
