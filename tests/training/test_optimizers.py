"""Optimizers in one: each trains its variables as it would alone, in any kind of step."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers import SGD, Adam, AdamW, LossScaleOptimizer

import polytape as pt
from polytape.engines import engine
from polytape.training.optimizers.optimizers import Optimizers
from polytape.training.step import train_step
from small import LOSSES, Array, arrays, assert_same, data, everything, model

BACKEND = keras.backend.backend()
SHAPES = [(2, 3), (3,), (3, 1), (1,)]
OWNERS = ["one", "two", "two", "one"]
NETWORK = ["trunk"] * 2 + ["heads"] * 6  # of the variables of `small.model`
Halving = functools.partial(keras.optimizers.schedules.ExponentialDecay, decay_rate=0.5)

PARTS = {
    "plain": lambda: (Adam(0.1), SGD(0.1, momentum=0.9)),
    "schedules": lambda: (Adam(Halving(0.1, 2)), SGD(Halving(0.2, 3), nesterov=True, momentum=0.5)),
    "norms": lambda: (Adam(0.1, clipnorm=0.1), SGD(0.1, global_clipnorm=0.2)),
    "values": lambda: (Adam(0.1), SGD(0.1, clipvalue=0.3)),
    "decay": lambda: (AdamW(0.1, weight_decay=0.1), SGD(0.1, weight_decay=0.2)),
    "averages": lambda: (
        Adam(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        SGD(0.1, use_ema=True, ema_momentum=0.7),
    ),
    "accumulation": lambda: (Adam(0.1, gradient_accumulation_steps=2), SGD(0.1, momentum=0.9)),
}


def variables() -> list[keras.Variable]:
    rng = np.random.default_rng(1)
    names = ["kernel", "bias", "kernel", "bias"]
    return [
        keras.Variable(rng.normal(size=shape), dtype="float32", name=name)
        for shape, name in zip(SHAPES, names, strict=True)
    ]


def gradients(step: int) -> list[Array]:
    rng = np.random.default_rng(100 + step)
    return [ops.convert_to_tensor(rng.normal(size=shape).astype("float32")) for shape in SHAPES]


def own(name: str, items: list, owners: list[str] = OWNERS) -> list:
    return [item for item, owner in zip(items, owners, strict=True) if owner == name]


def slots(optimizer: keras.optimizers.Optimizer) -> list[Array]:
    return arrays(optimizer.variables)


def counts(optimizer: Optimizers) -> list[int]:
    """Steps of the whole and of each part, those that accumulate included."""
    each = [optimizer, *(optimizer[name] for name in optimizer)]
    return [int(one.variables[0].value) for one in each]


def both(first: Adam, second: SGD, **options: object) -> Optimizers:
    return Optimizers({"one": first, "two": second}, OWNERS, **options)


@pytest.mark.parametrize("name", PARTS)
def test_each_does_what_it_does_alone(name: str) -> None:
    mine, theirs = variables(), variables()
    together, alone = both(*PARTS[name]()), dict(zip(["one", "two"], PARTS[name](), strict=True))
    for each in (together, *alone.values()):
        each.exclude_from_weight_decay(var_names=["bias"])
    for step in range(5):
        together.apply(gradients(step), mine)
        for part, optimizer in alone.items():
            optimizer.apply(own(part, gradients(step)), own(part, theirs))
    together.finalize_variable_values(mine)
    for part, optimizer in alone.items():
        optimizer.finalize_variable_values(own(part, theirs))
        assert_same(slots(together[part]), slots(optimizer))
    assert_same(arrays(mine), arrays(theirs))
    assert int(together.iterations) == 5
    assert len({id(v) for v in together.variables}) == len(together.variables)
    assert len(together.variables) == 1 + sum(len(alone[part].variables) for part in together)


def test_a_part_without_gradients_rests() -> None:
    mine, theirs = variables(), variables()
    together, alone = both(Adam(), SGD(momentum=0.9)), SGD(momentum=0.9)
    for step in range(4):
        given = gradients(step)
        if step % 2:
            given = [g if owner == "one" else None for g, owner in zip(given, OWNERS, strict=True)]
        else:
            alone.apply(own("two", given), own("two", theirs))
        together.apply(given, mine)
    together.apply(own("two", gradients(9)), own("two", mine))  # some of the variables only
    alone.apply(own("two", gradients(9)), own("two", theirs))
    assert_same(slots(together["two"]), slots(alone))
    assert_same(arrays(own("two", mine)), arrays(own("two", theirs)))
    assert counts(together) == [5, 4, 3]


def test_a_mask_holds_within_its_block() -> None:
    together, values = both(Adam(), SGD(momentum=0.9)), variables()
    together.build(values)
    before = arrays([*own("two", values), *together["two"].variables])
    with together.taking_part({"two": False}):
        together.apply(gradients(0), values)
    assert_same(arrays([*own("two", values), *together["two"].variables]), before)
    together.apply(gradients(1), values)
    assert counts(together) == [2, 2, 1]


def test_the_losses_are_scaled_for_all_at_once() -> None:
    scaled, plain = variables(), variables()
    together, reference = both(Adam(), SGD(), loss_scale_factor=8.0), both(Adam(), SGD())
    assert float(together.scale_loss(ops.ones(()))) == 8.0
    together.apply([8.0 * gradient for gradient in gradients(0)], scaled)
    reference.apply(gradients(0), plain)
    assert_same(arrays(scaled), arrays(plain))
    inner, values = both(Adam(), SGD(), loss_scale_factor=8.0), variables()
    wrapped = LossScaleOptimizer(inner, initial_scale=4.0)  # which scales in its place
    larger = [4.0 * gradient for gradient in gradients(0)]
    engine().apply(wrapped, larger, values, ops.ones((), "bool"))
    assert_same(arrays(values), arrays(plain))


# ------------------------------------------------------------------ in a model

X, Y = data(16)


def parts() -> dict[str, keras.optimizers.Optimizer]:
    """Everything that an optimizer may do besides its update."""
    trunk = AdamW(Halving(0.01, 2), use_ema=True, global_clipnorm=0.5)
    heads = SGD(0.1, momentum=0.9, gradient_accumulation_steps=2, clipvalue=0.1)
    return {"trunk": trunk, "heads": heads}


def compiled(cls: type = pt.Model, **options: object) -> keras.Model:
    net = model(cls)
    net.compile(Optimizers(parts(), NETWORK), LOSSES, **options)
    return net


@functools.cache
def by_hand(heads_rest: tuple[int, ...] = ()) -> list[Array]:
    """Weights and slots after a loop over four batches with an optimizer for either part."""
    net, optimizers = model(keras.Model), parts()
    known = net.trainable_variables
    losses = {key: keras.losses.get(loss) for key, loss in LOSSES.items()}
    for step in range(4):
        batch = slice(4 * step, 4 * step + 4)

        def total(batch: slice = batch) -> tuple[list, None]:
            found = net(X[batch])
            each = [losses[key](Y[key][batch], found[key]) for key in losses]
            return [sum(ops.mean(loss) for loss in each)], None

        found = engine().record(total, lambda: known).vjp({0: ops.ones(())}, range(8))
        for part, optimizer in optimizers.items():
            if part == "trunk" or step not in heads_rest:
                optimizer.apply(own(part, found, NETWORK), own(part, known, NETWORK))
    for part, optimizer in optimizers.items():
        optimizer.finalize_variable_values(own(part, known, NETWORK))
    return arrays([*known, *(v for each in optimizers.values() for v in each.variables)])


def trained(net: keras.Model) -> list[Array]:
    net.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    inner = net.optimizer.variables[1:]
    return arrays([*net.trainable_variables, *inner])


def assert_close(one: list[Array], other: list[Array]) -> None:
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [keras.Model, pt.Model])
def test_fit_is_two_optimizers_in_a_loop(cls: type) -> None:
    assert_close(trained(compiled(cls)), by_hand())


class Alternating(pt.Model):
    """Its heads rest in the second and fourth step, whatever gradients there are."""

    def train_step(self, *args: object) -> object:
        whole = self.optimizer
        if isinstance(whole, LossScaleOptimizer):
            whole = whole.inner_optimizer

        def step(batch: object) -> object:
            with whole.taking_part({"heads": ops.equal(whole.iterations % 2, 0)}):
                return train_step(self, batch)

        return engine().train_step(self, step, *args)


@pytest.mark.parametrize("xla", [True, False] if BACKEND == "tensorflow" else [BACKEND == "jax"])
def test_what_takes_no_part_changes_in_nothing(xla: bool) -> None:
    net = compiled(Alternating, jit_compile=xla)
    assert_close(trained(net), by_hand(heads_rest=(1, 3)))
    assert counts(net.optimizer) == [4, 4, 2]


def test_float16_skips_the_step_of_all() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = compiled(Alternating)
        assert isinstance(net.optimizer, LossScaleOptimizer)
        net.optimizer.initial_scale = 1024.0
        together, before = net.optimizer.inner_optimizer, arrays(net.trainable_variables)
        huge = {name: target * (10000 if name == "a" else 1) for name, target in Y.items()}
        net.train_on_batch(X, huge)
        assert_same(arrays(net.trainable_variables), before)
        for _ in range(3):
            net.train_on_batch(X, Y)
        assert float(net.optimizer.dynamic_scale) == 512.0
        assert counts(together) == [3, 3, 2]
        after = arrays(net.trainable_variables)
        assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    finally:
        keras.config.set_dtype_policy("float32")


# ------------------------------------------------------------------ saved


@pytest.mark.parametrize(("cls", "policy"), [(keras.Model, "float32"), (pt.Model, "mixed_float16")])
def test_goes_on_after_loading(cls: type, policy: str, tmp_path: object) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        original = compiled(cls)
        for _ in range(3):
            original.train_on_batch(X, Y)
        original.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_same(everything(original), everything(loaded))
        for net in (original, loaded):
            net.train_on_batch(X, Y)
            net.train_on_batch(X, Y)
        assert_same(everything(original), everything(loaded))
    finally:
        keras.config.set_dtype_policy("float32")


def test_config_and_weights_make_the_same_optimizer() -> None:
    mine, theirs = variables(), variables()
    together = both(Adam(0.1), SGD(0.1, momentum=0.9))
    together.apply(gradients(0), mine)
    again = keras.optimizers.get(keras.optimizers.serialize(together))
    again.divide(OWNERS)  # as the plan of a loaded model does once more
    again.build(theirs)
    again.divide(OWNERS)
    again.set_weights(slots(together))
    for one, other in zip(mine, theirs, strict=True):
        other.assign(one.value)
    for optimizer, values in ((together, mine), (again, theirs)):
        optimizer.apply(gradients(1), values)
    assert_same(arrays(mine), arrays(theirs))
    assert_same(slots(together), slots(again))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.train.Checkpoint")
def test_checkpoints_of_tensorflow_hold_the_slots(tmp_path: object) -> None:
    import tensorflow as tf

    values = variables()
    one, other = both(Adam(), SGD(momentum=0.9)), both(Adam(), SGD(momentum=0.9))
    one.apply(gradients(0), values)
    other.build(values)
    path = tf.train.Checkpoint(optimizer=one).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(optimizer=other).restore(path)
    assert_same(slots(one), slots(other))


# ------------------------------------------------------------------ learning rates


class SetOne(keras.callbacks.Callback):
    """Stops the heads from the third batch on."""

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        if batch == 2:
            self.model.optimizer["heads"].learning_rate = 0.0
            self.before = arrays(self.model.trainable_variables)


def rates(optimizer: Optimizers) -> list[float]:
    return [float(ops.convert_to_numpy(optimizer[name].learning_rate)) for name in optimizer]


def test_callbacks_reach_every_rate() -> None:
    net = model()
    net.compile(Optimizers({"trunk": Adam(0.01), "heads": SGD(0.1)}, NETWORK), LOSSES)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: [0.02, 0.0, 0.04][epoch])
    told = net.fit(X, Y, epochs=3, verbose=0, callbacks=[schedule]).history
    np.testing.assert_allclose(told["learning_rate"], [0.02, 0.0, 0.04], rtol=1e-6)
    np.testing.assert_allclose(rates(net.optimizer), [0.04, 0.4], rtol=1e-6)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.25, patience=1, min_delta=1e3)
    net.fit(X, Y, epochs=2, verbose=0, callbacks=[plateau])
    np.testing.assert_allclose(rates(net.optimizer), [0.01, 0.1], rtol=1e-6)


def test_a_callback_sets_one_rate_alone() -> None:
    net, callback = model(), SetOne()
    net.compile(Optimizers({"trunk": Adam(0.01), "heads": SGD(0.1)}, NETWORK), LOSSES)
    net.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    pairs = zip(callback.before, arrays(net.trainable_variables), strict=True)
    moved = [not np.array_equal(one, other) for one, other in pairs]
    assert moved == [name == "trunk" for name in NETWORK]
    assert rates(net.optimizer)[1] == 0.0


# ------------------------------------------------------------------ refusals

SHARED = Adam()
REFUSED = {
    "at least one optimizer": lambda: Optimizers({}),
    r"optimizer\['one'\] must be a Keras optimizer.*Received: 3 of type int": (
        lambda: Optimizers({"one": 3})
    ),
    r"optimizer\['two'\] and optimizer\['one'\] are the same object.*Give each its own": (
        lambda: both(SHARED, SHARED)
    ),
    r"optimizer\['one'\] is a LossScaleOptimizer.*give the plain ones": (
        lambda: both(LossScaleOptimizer(Adam()), SGD())
    ),
    r"optimizer\['two'\] has loss_scale_factor=2.0.*here by 4.0.*Give it to the whole": (
        lambda: both(Adam(), SGD(loss_scale_factor=2.0), loss_scale_factor=4.0)
    ),
    "belongs to the optimizer 'three'.*There are: one, two": (
        lambda: both(Adam(), SGD()).divide(["one", "three"])
    ),
    "not known which variables.*one.*optimizer={...}.*owners=": (
        lambda: Optimizers({"one": "adam"}).build(variables())
    ),
    "optimizers of 4 variables; the model has 3.*`trainable`": (
        lambda: both(Adam(), SGD()).build(variables()[:3])
    ),
    "in proportion to that of the first optimizer, 'one', which is zero.*one by one": (
        lambda: setattr(both(Adam(0.0), SGD()), "learning_rate", 0.1)
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        REFUSED[text]()


def test_refused_once_built() -> None:
    together = both(Adam(), SGD())
    together.build(variables())
    with pytest.raises(ValueError, match=r"divided in another way.*new optimizers"):
        together.divide(["two", "one", "one", "two"])


def test_unknown_names_are_key_errors() -> None:
    together = both(Adam(), SGD())
    with pytest.raises(KeyError, match=r"No optimizer 'three'\. There are: one, two"):
        together["three"]
    with pytest.raises(KeyError, match="No optimizer 'three'"), together.taking_part({"three": 1}):
        pass


def test_rates_that_follow_a_schedule_are_not_set() -> None:
    together = both(Adam(0.1), SGD(Halving(0.1, 2)))
    with pytest.raises(TypeError, match=r"optimizer\['two'\] follows a schedule.*one by one"):
        together.learning_rate = 0.2
    assert rates(together)[0] == np.float32(0.1)
    with pytest.raises(TypeError, match=r"belongs to one optimizer: optimizer\['one'\]"):
        together.learning_rate = Halving(0.1, 2)
