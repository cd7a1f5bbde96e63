"""Floating-point operations and memory of one compiled training step, as XLA counts them (JAX).

    python -m benchmarks.xla_counts

XLA counts the body of a loop once, whatever the number of turns. Loops of known length (the pieces
of the Gramian, elimination in the solvers) are therefore unrolled for the count of operations.
What remains in loops is the solvers' iterations: T x T algebra. Of a condition it counts the dearer
branch. Memory is that of the step as it runs, with loops and branches.
"""

import functools
import itertools
from typing import Any

import numpy as np

from benchmarks import common

WIDTHS, BATCH = (784, 1024, 1024, 512), 256
METHODS = ("upgrad", "nashmtl", "mgda")


def compiled(cls: type, tasks: int, **kwargs: Any) -> Any:
    """The XLA executable of one training step."""
    import keras

    model = common.network(cls, WIDTHS, tasks)
    losses = dict.fromkeys(common.names(tasks), "mse")
    model.compile(keras.optimizers.SGD(1e-3), loss=losses, **kwargs)
    data = common.regression(WIDTHS[0], tasks, BATCH)
    model.fit(*data, batch_size=BATCH, verbose=0)  # builds everything
    return common.compiled(model, data)


def unrolled(function: Any) -> Any:
    """`function` with loops of known length unrolled."""
    import jax

    loop = jax.lax.fori_loop

    @functools.wraps(loop)
    def straight(lower: Any, upper: Any, body: Any, init: Any, **kwargs: Any) -> Any:
        if isinstance(lower, int) and isinstance(upper, int):
            value = init
            for index in range(lower, upper):
                value = body(np.int32(index), value)
            return value
        return loop(lower, upper, body, init, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        jax.lax.fori_loop = straight
        try:
            return function(*args, **kwargs)
        finally:
            jax.lax.fori_loop = loop

    return call


def flops(executable: Any) -> float:
    return executable.cost_analysis()["flops"]


def temporaries(executable: Any) -> int:
    return executable.memory_analysis().temp_size_in_bytes


def main() -> None:
    common.choose("jax")
    import keras

    import polytape as pt

    layers = list(itertools.pairwise(WIDTHS))
    products = 2 * BATCH * sum(a * b for a, b in layers)
    size = 4 * sum(a * b + b for a, b in layers)
    first = 2 * BATCH * WIDTHS[0] * WIDTHS[1]  # the inputs need no gradient
    rows = []
    for tasks in (2, 4, 8):
        floor = products + tasks * (2 * products - first)
        plain = compiled(keras.Model, tasks)
        for method in ("sum", *METHODS):
            step = compiled(pt.Model, tasks, combine=method)
            whole = flops(unrolled(compiled)(pt.Model, tasks, combine=method))
            memory, base = temporaries(step), temporaries(plain)
            against = whole / (flops(plain) if method == "sum" else floor)
            bound = base + (0 if method == "sum" else (tasks + 2) * size)
            figures = (against, flops(step) / whole, memory / size, memory / bound)
            row = [str(tasks), method, *(f"{figure:.3f}" for figure in figures)]
            rows.append(row)
            print(row, flush=True)
    header = ["T", "combine", "operations", "as compiled", "temporaries / trunk", "/ bound"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
