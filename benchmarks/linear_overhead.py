"""What `pt.Model` costs where one backward pass is enough: `fit` beside a plain Keras `fit`.

python -m benchmarks.linear_overhead jax          # or tensorflow, torch
"""

import sys

from benchmarks import common

NETS = {  # widths, batch, steps of a turn
    "784-1024-1024-512, batch 256": ((784, 1024, 1024, 512), 256, 10),
    "256-512-512-256, batch 256": ((256, 512, 512, 256), 256, 15),
    "64-64-64-64, batch 64": ((64, 64, 64, 64), 64, 100),
}
METHODS = ("sum", "dwa", "randomweights")


def main(backend: str, rounds: int = 25, tasks: int = 4) -> None:
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
            found = times[method]
            figures = [*common.milliseconds(found), *common.ratios(found, times["keras"])]
            rows.append([backend, name, method, *figures])
    header = ["backend", "net", "combine", "ms", "best ms", "ratio", "middle half", "of the best"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
