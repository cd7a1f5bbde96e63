"""Data sets of several objectives as one, for `fit` and `evaluate` on every backend.

Sequences of different lengths: `zip_objectives` takes lists of arrays and pads each batch to its
longest. Let the network leave the padding out: `keras.layers.Masking(mask_value=0.0)` for
features, or `keras.layers.Embedding(..., mask_zero=True)` for words, where 0 is kept for padding.
For a whole data set at once there is `keras.utils.pad_sequences`.

>>> import numpy as np, polytape as pt
>>> sequences = [np.ones((4, 2)), np.ones((3, 2))]
>>> [(x, y)] = pt.data.zip_objectives({"a": (sequences, np.ones((2, 1)))}, multiple=8)
>>> x["a"].shape
(2, 8, 2)
"""

from polytape.data.zipped import zip_objectives

__all__ = ["zip_objectives"]
