"""An encoder and a decoder, each with a loss and an optimizer of its own, beside a loop by hand.

    python -m benchmarks.encoder_decoder [turns]

TensorFlow: the training step of `pt.Model` with two objectives, two routes and two optimizers, and
`tf.function` around one persistent tape, two gradients and two optimizers, on the same data, both
with XLA and both without, which is what Keras chooses on a CPU. "guarded" is that loop with the
promise that polytape keeps: a gradient that is not finite changes no variable. They work by turns;
a ratio is the median of the ratios within a turn, to the loop by hand with the same compiler.
"""

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import common

STEPS = 10  # per turn: few, so that both see the machine in the same mood
SIZES = {
    "784-512-256-32, batch 256": ((784, 512, 256, 32), 256),
    "64-64-64-16, batch 64": ((64, 64, 64, 16), 64),
}


def networks(sizes: tuple[int, ...]) -> Any:
    import keras

    def stack(sizes: tuple[int, ...]) -> Any:
        hidden = [keras.layers.Dense(size, activation="relu") for size in sizes[1:-1]]
        return keras.Sequential([keras.Input((sizes[0],)), *hidden, keras.layers.Dense(sizes[-1])])

    return stack(sizes), stack(sizes[::-1])


def polytape(sizes: tuple[int, ...], batch: Any, xla: bool) -> Callable[[], None]:
    import keras
    import tensorflow as tf
    from keras import ops

    import polytape as pt

    encoder, decoder = networks(sizes)

    def forward(parts: Any, x: Any) -> Any:
        code = parts["encoder"](x)
        return {"code": code, "image": parts["decoder"](code)}

    model = pt.Model(networks={"encoder": encoder, "decoder": decoder}, forward=forward)
    model.compile(
        objectives=[
            pt.Objective(
                "image",
                lambda s: ops.mean(ops.square(s.outputs["image"] - s.inputs)),
                trains="decoder",
            ),
            pt.Objective(
                "code", lambda s: ops.mean(ops.square(s.outputs["code"] - 0.5)), trains="encoder"
            ),
        ],
        optimizer={"encoder": keras.optimizers.Adam(), "decoder": keras.optimizers.Adam()},
        verbose=0,
        jit_compile=xla,
    )
    model.train_on_batch(batch)
    step = tf.function(model.train_step, autograph=False, jit_compile=xla)
    return lambda: step((batch,))


def guarded(sizes: tuple[int, ...], batch: Any, xla: bool) -> Callable[[], None]:
    return by_hand(sizes, batch, xla, guard=True)


def by_hand(
    sizes: tuple[int, ...], batch: Any, xla: bool, guard: bool = False
) -> Callable[[], None]:
    import keras
    import tensorflow as tf

    encoder, decoder = networks(sizes)
    one, other = keras.optimizers.Adam(), keras.optimizers.Adam()
    one.build(encoder.trainable_variables)
    other.build(decoder.trainable_variables)
    means = [keras.metrics.Mean() for _ in range(3)]

    @tf.function(autograph=False, jit_compile=xla)
    def step(x: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            code = encoder(x, training=True)
            image = decoder(code, training=True)
            losses = tf.reduce_mean((image - x) ** 2), tf.reduce_mean((code - 0.5) ** 2)
        for_decoder = tape.gradient(losses[0], decoder.trainable_variables)
        for_encoder = tape.gradient(losses[1], encoder.trainable_variables)

        def update() -> Any:
            other.apply(for_decoder, decoder.trainable_variables)
            one.apply(for_encoder, encoder.trainable_variables)
            return tf.constant(True)

        if guard:
            found = [*losses, *for_decoder, *for_encoder]
            fine = tf.math.is_finite(tf.add_n([tf.reduce_sum(part) for part in found]))
            tf.cond(fine, update, lambda: tf.constant(False))
        else:
            update()
        for mean, value in zip(means, (*losses, losses[0] + losses[1]), strict=True):
            mean.update_state(value)
        return [mean.result() for mean in means]

    return lambda: step(batch)


def seconds(call: Callable[[], None]) -> Callable[[], float]:
    """A run of STEPS steps, in seconds per step."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            call()
        return (time.perf_counter() - start) / STEPS

    return run


def main(turns: int = 101) -> None:
    common.choose("tensorflow")
    import tensorflow as tf

    rows = []
    for (name, (sizes, count)), xla in itertools.product(SIZES.items(), (True, False)):
        batch = tf.constant(np.random.default_rng(0).normal(size=(count, sizes[0])), tf.float32)
        makers = by_hand, guarded, polytape
        runs = {made.__name__: seconds(made(sizes, batch, xla)) for made in makers}
        times = common.by_turns(runs, turns)
        for made, found in times.items():
            compared = common.ratios(found, times["by_hand"])
            compiler = "XLA" if xla else "graph"
            rows.append([name, compiler, made, *common.milliseconds(found), *compared])
    header = ["net", "compiler", "", "ms", "best ms", "ratio", "middle half", "of the best"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
