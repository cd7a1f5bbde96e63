"""One history for three backends.

`histories.json` was computed once, from weights and data of a seeded NumPy generator, by

    KERAS_BACKEND=tensorflow PYTHONPATH=tests/helpers python tests/training/test_histories.py

and every backend has to reproduce it.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import polytape as pt
from small import LOSSES, data, model

FILE = Path(__file__).with_name("histories.json")
METHODS = {
    "mgda": pt.MGDA(),
    "upgrad": pt.UPGrad(),
    "imtlg": pt.IMTLG(),
    "alignedmtl": pt.AlignedMTL(),
    "config": pt.ConFIG(),
    "nashmtl": pt.NashMTL(),
    "chain": pt.Chain(pt.Reweight({"b": 0.5}), pt.Normalize(), pt.Clip(0.5), pt.UPGrad()),
    "per variable": pt.PerVariable(pt.Smoothed(pt.IMTLG(), decay=0.5)),
}


def history(name: str) -> dict[str, list[float]]:
    """Eight steps of SGD with momentum on the three objectives."""
    x, y = data(32)
    found = model()
    found.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSSES, combine=METHODS[name])
    told = found.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0)
    return {key: [round(float(v), 7) for v in values] for key, values in told.history.items()}


@pytest.mark.parametrize("name", METHODS)
def test_same_on_every_backend(name: str) -> None:
    expected, found = json.loads(FILE.read_text())[name], history(name)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4, err_msg=key)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: history(name) for name in METHODS}, indent=1) + "\n")
