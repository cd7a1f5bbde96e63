"""What a training step sends between devices, and which way is the fastest on how many (JAX).

    python -m benchmarks.communication             # prints, and writes docs/communication.md

Bytes and the number of collectives are read from the compiled programme, on 8 virtual devices of a
CPU. Times come from a model: F + T B of compute, and of ring collectives a latency for each hop and
the bytes through the link of a device. F and B are fitted to steps measured on one device.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.collectives import Collectives, collectives, sent_bytes

WIDTHS, BATCH = (256, 512, 512, 256), 256
DEVICES, TASKS, EVERY = 8, (2, 4, 8, 40), 10
PAGE = Path(__file__).resolve().parents[1] / "docs" / "communication.md"
WAYS = ("keras", "sum", "rows", "scattered", "every", "features")
BETWEEN = "every, between"  # two steps that look at the gradients


# ------------------------------------------------------------------ counted


def network(cls: type, tasks: int, features: bool) -> Any:
    import keras

    import polytape as pt

    keras.utils.set_random_seed(0)
    inputs = hidden = keras.Input((WIDTHS[0],))
    for width in WIDTHS[1:]:
        hidden = keras.layers.Dense(width, activation="relu")(hidden)
    hidden = pt.Features()(hidden) if features else hidden
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in common.names(tasks)}
    return cls(inputs, heads)


def compiled(way: str, tasks: int) -> tuple[int, Any]:
    """The number of parameters, and the XLA executable of one step."""
    import jax
    import keras

    import polytape as pt

    settings: dict[str, dict[str, Any]] = {
        "keras": {},
        "sum": {"combine": "sum"},
        "rows": {"combine": "imtlg", "communication": "all_reduce"},
        "scattered": {"combine": "imtlg", "communication": "scatter"},
        "every": {"combine": pt.Every(pt.IMTLG(), EVERY), "communication": "all_reduce"},
        "features": {"combine": "imtlg", "measure": "features"},
    }
    cls = keras.Model if way == "keras" else pt.Model
    model = network(cls, tasks, way == "features")
    losses = dict.fromkeys(common.names(tasks), "mse")
    model.compile(keras.optimizers.SGD(1e-3), loss=losses, **settings[way])
    x, y = common.regression(WIDTHS[0], tasks, BATCH)
    model.fit(x, y, batch_size=BATCH, verbose=0)  # builds everything
    spread = keras.distribution.distribution().get_data_layout
    data = jax.tree.map(lambda a: jax.device_put(a, spread(a.shape).backend_layout), (x, y))
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return size, common.compiled(model, data, sharded=True)


# ------------------------------------------------------------------ measured


@dataclass(frozen=True)
class Compute:
    """Seconds: `fixed` and forward pass, and one backward pass, of the whole batch on a device."""

    forward: float
    backward: float


def measured(turns: int = 9, steps: int = 10) -> Compute:
    """F and B from the times of steps with 2, 4 and 8 objectives on one device, by turns."""
    import polytape as pt

    fits = {
        tasks: common.Fit(pt.Model, WIDTHS, tasks, BATCH, steps, combine="imtlg")
        for tasks in (2, 4, 8)
    }
    times: dict[int, list[float]] = {tasks: [] for tasks in fits}
    for turn in range(turns + 1):
        for tasks, fit in fits.items():
            seconds = fit()
            if turn:  # the first one compiles
                times[tasks].append(seconds)
    known = [min(times[tasks]) for tasks in fits]  # others use this machine, too
    backward, forward = np.polyfit([*fits], known, 1)
    return Compute(float(forward), float(backward))


# ------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Cluster:
    """Devices in a ring: seconds for a hop, and bytes in a second through the link of one.

    name  in words;  faster  how many times a device computes faster than the one measured
    larger  how many times the network has more parameters, and work, than the one measured
    """

    name: str
    hop: float
    link: float
    faster: float
    larger: float


def ring(found: Mapping[str, Collectives], devices: int, cluster: Cluster) -> float:
    """Seconds of collectives, whose results on 8 devices are known."""
    total = 0.0
    for kind, each in found.items():
        size = each.size * cluster.larger
        rounds = 2 if kind == "all-reduce" else 1
        if kind == "reduce-scatter":  # of which one device gets a part
            size *= DEVICES
        sent = rounds * (devices - 1) / devices * size
        total += each.count * rounds * (devices - 1) * cluster.hop + sent / cluster.link
    return total


def step_time(
    way: str,
    tasks: int,
    devices: int,
    cluster: Cluster,
    compute: Compute,
    programmes: Mapping[tuple[str, int], Mapping[str, Collectives]],
) -> float:
    """Seconds of one step, each device having the batch that was measured."""
    if way == "every":
        between = step_time(BETWEEN, tasks, devices, cluster, compute, programmes)
        due = step_time("rows", tasks, devices, cluster, compute, programmes)
        return due / EVERY + between * (1 - 1 / EVERY)
    passes = tasks if way in ("rows", "scattered") else 1
    work = (compute.forward + passes * compute.backward) * cluster.larger / cluster.faster
    return work + ring(programmes[way, tasks], devices, cluster)


# ------------------------------------------------------------------ told


CLUSTERS = (
    Cluster("processes on CPUs, 10 Gbit/s Ethernet", 30e-6, 1.25e9, 1.0, 1.0),
    Cluster("accelerators, 400 Gbit/s network, 1,000 x the parameters", 5e-6, 50e9, 2000.0, 1000.0),
    Cluster("accelerators, links of 300 GB/s, 1,000 x the parameters", 2e-6, 300e9, 2000.0, 1000.0),
)


def counted_table(sizes: Mapping[int, int], programmes: Any) -> str:
    rows = []
    for (way, tasks), found in programmes.items():
        of_kind = {
            kind: f"{each.size / 4 / sizes[tasks]:.3f} ({each.count})"
            for kind, each in found.items()
        }
        sent = sent_bytes(found, DEVICES) / 4 / sizes[tasks]
        kinds = ("all-reduce", "reduce-scatter", "all-gather")
        naive = sent_bytes(programmes["rows", tasks], DEVICES) / 4 / sizes[tasks]
        row = [str(tasks), way, *(of_kind.get(kind, "") for kind in kinds)]
        rows.append([*row, f"{sent:.3f}", f"{sent / naive:.3f}"])
    header = ["T", "step", "all-reduce", "reduce-scatter", "all-gather", "sent", "/ rows"]
    return common.table(header, rows)


def time_table(cluster: Cluster, compute: Compute, programmes: Any) -> str:
    rows = []
    for tasks in TASKS:
        for devices in (8, 64, 256, 1000):
            times = {
                way: step_time(way, tasks, devices, cluster, compute, programmes) for way in WAYS
            }
            best = min(("rows", "scattered"), key=times.__getitem__)
            cells = [f"{1e3 * times[way]:.3g}" for way in WAYS[1:]]
            rows.append([str(tasks), str(devices), *cells, best])
    header = ["T", "devices", *WAYS[1:], "rows: best"]
    return common.table(header, rows)


def page(compute: Compute, sizes: Mapping[int, int], programmes: Any) -> str:
    forward, backward = 1e3 * compute.forward, 1e3 * compute.backward
    times = "\n\n".join(
        f"### {cluster.name}\n\n{time_table(cluster, compute, programmes)}" for cluster in CLUSTERS
    )
    shares = ", ".join(f"{(t + 1) / (2 * t):.3f} for T = {t}" for t in TASKS)
    return f"""# What a step sends between devices

`python -m benchmarks.communication` writes this page. Bytes are counted in the compiled programme
(JAX, {DEVICES} virtual devices, `keras.distribution.DataParallel`); times are those of a model.

Trunk {"-".join(map(str, WIDTHS))}, T heads of one unit, batch {BATCH}, IMTL-G.

* *keras*: `keras.Model`. *sum*: `combine="sum"`, one backward pass, as methods that weigh losses.
* *rows*: `communication="all_reduce"`: every gradient whole on every device.
* *scattered*: `communication="scatter"`: a device adds up and keeps a slice of every gradient, the
  T x T inner products are added up, and the combined gradient is put together.
* *every*: `pt.Every(method, {EVERY})`, in a step that looks at the gradients and in one *between*.
* *features*: `measure="features"`: T backward passes as far as the marked tensor, whose rows stay
  on the device of their samples, and one through the network.

Results of collectives in units of P, the parameters; in brackets how many collectives there are.
*sent*: what one device sends in a ring of {DEVICES}, in the same units; an all-reduce of P is
2 (N - 1) / N P, and a reduce-scatter and an all-gather are its halves. */ rows*: beside *rows*.

{counted_table(sizes, programmes)}

Scattered rows send (T + 1) / 2T of what whole rows send: {shares}.

## Where which way wins

A step takes F + T B, then its collectives: in a ring of N devices (N - 1) hops for a reduce-scatter
or an all-gather, twice as many for an all-reduce, and the bytes above through the link of a device.
Nothing overlaps, and a device has {BATCH} samples however many there are. F = {forward:.2f} ms
(with all that does not grow with T) and B = {backward:.2f} ms were fitted to the shortest of steps
measured on one device of a shared CPU. Accelerators are taken to compute 2,000 times faster, on a
network 1,000 times as large. Milliseconds of a step:

{times}

* **Scattered rows** beat whole rows wherever bytes are what costs: large networks, few or slow
  links. They are as many reduce-scatters as rows, where whole rows are one all-reduce, so for small
  networks on many devices the hops cost more than the bytes save (XLA for GPU and TPU may join
  them, which this count on a CPU does not show). `communication="auto"` scatters from 1 MB on
  that a device keeps of a row, and does not know your links: say "all_reduce" or "scatter".
* **`pt.Every(method, k)`** costs what a sum costs in k - 1 of k steps, bytes as well as passes. It
  is the first thing to try where either is what costs.
* **`measure="features"`** sends what a sum sends, whatever T is, and takes about one backward pass
  through the network: beyond a handful of objectives nothing that looks at every step comes near.
  It compares gradients by the features instead of the parameters.
"""


def main() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={DEVICES}"
    common.choose("jax")
    import keras

    compute = measured()
    print(compute, flush=True)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    sizes: dict[int, int] = {}
    programmes: dict[tuple[str, int], dict[str, Collectives]] = {}
    for tasks in TASKS:
        for way in WAYS:
            sizes[tasks], executable = compiled(way, tasks)
            # What features take apart if they are not finite is another matter.
            programmes[way, tasks] = collectives(executable, min if way == "features" else max)
            if way == "every":
                programmes[BETWEEN, tasks] = collectives(executable, min)
            print(tasks, way, programmes[way, tasks], flush=True)
    text = page(compute, sizes, programmes)
    print(text)
    if "--dry" not in sys.argv:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
