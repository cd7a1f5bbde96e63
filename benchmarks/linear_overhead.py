"""What `pt.Model` costs where one backward pass is enough: `fit` beside a plain Keras `fit`.

    python -m benchmarks.linear_overhead jax          # or tensorflow, torch
"""

import sys

from benchmarks import common

NETS = {"256-512-512-256, batch 256": ((256, 512, 512, 256), 256, 60), "64-64-64-64, batch 64": ((64,) * 4, 64, 400)}
METHODS = ("sum", "dwa", "randomweights")


def main(backend: str, rounds: int = 9, tasks: int = 4) -> None:
    common.choose(backend)
    import keras

    import polytape as pt

    rows = []
    for name, (widths, batch, steps) in NETS.items():
        shape = (widths, tasks, batch, steps)
        runs = {"keras": common.Fit(keras.Model, *shape)}
        runs |= {method: common.Fit(pt.Model, *shape, combine=method) for method in METHODS}
        runs["keras again"] = common.Fit(keras.Model, *shape)
        times = common.by_turns(runs, rounds)
        for method in (*METHODS, "keras again"):
            ratio = common.ratios(times[method], times["keras"])
            rows.append([backend, name, method, common.milliseconds(times[method]), ratio])
    print(common.table(["backend", "net", "combine", "ms per step", "ratio to Keras"], rows))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
