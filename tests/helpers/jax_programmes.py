"""What training steps send between 8 devices and hold, counted in the compiled programmes (JAX).

python jax_programmes.py DISTRIBUTION STEP ...      prints {step: figures} as JSON

A step is "keras T", or "combine T communication". Bytes are those that one device sends in a ring
or holds beside its arguments, in units of the parameters.
"""

import json
import sys
from typing import Any

import keras
import numpy as np
from benchmarks import common
from benchmarks.collectives import collectives, sent_bytes, temporaries

import polytape as pt

WIDTHS, BATCH = (128, 256, 256, 128), 64


def spread(kind: str) -> None:
    if kind == "data":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        return
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), devices)
    layouts = keras.distribution.LayoutMap(mesh)
    # As users write them, so that they fit the names of what methods remember, too.
    layouts[".*dense_0.*kernel"] = (None, "model")
    layouts[".*dense_1.*kernel"] = ("model", None)
    layouts[".*dense_2.*kernel"] = (None, "model")
    layouts[".*dense_[02].*bias"] = ("model",)
    found = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    keras.distribution.set_distribution(found)


def compiled(step: str) -> tuple[Any, Any]:
    """A model after a step of `fit`, and that step, compiled."""
    import jax

    combine, tasks, *way = step.split()
    names = [f"head_{number}" for number in range(int(tasks))]
    keras.utils.set_random_seed(0)
    hidden = inputs = keras.Input((WIDTHS[0],))
    for number, width in enumerate(WIDTHS[1:]):
        hidden = keras.layers.Dense(width, activation="relu", name=f"dense_{number}")(hidden)
    outputs = {name: keras.layers.Dense(1, name=name)(hidden) for name in names}
    losses = dict.fromkeys(names, "mse")
    if combine == "keras":
        model = keras.Model(inputs, outputs)
        model.compile("sgd", loss=losses)
    else:
        model = pt.Model(inputs, outputs)
        settings: Any = {"communication": way[0]} if way else {}
        model.compile("sgd", loss=losses, combine=combine, **settings)
    x = np.random.default_rng(0).normal(size=(BATCH, WIDTHS[0])).astype("float32")
    y = dict.fromkeys(names, x[:, :1])
    model.fit(x, y, batch_size=BATCH, verbose=0)
    distribution = keras.distribution.distribution()
    data = jax.tree.map(
        lambda a: jax.device_put(a, distribution.get_data_layout(a.shape).backend_layout), (x, y)
    )
    return model, common.compiled(model, data, sharded=True)


def figures(step: str) -> dict[str, Any]:
    model, executable = compiled(step)
    size = 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    found = collectives(executable)
    memory = {}
    for variable in model.non_trainable_variables:
        if "memory" in variable.path:
            own = variable.value.addressable_shards[0].data.shape
            memory[variable.path] = [list(variable.shape), list(own)]
    return {
        "kinds": sorted(found),
        "sent": sent_bytes(found, 8) / size,
        "held": temporaries(executable) / size,
        "memory": memory,
    }


if __name__ == "__main__":
    spread(sys.argv[1])
    print(json.dumps({step: figures(step) for step in sys.argv[2:]}))
