"""The data of the `fit` that runs, looked at a second time."""

import itertools
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from polytape.contract.types import Anything, Nest
from polytape.training.losses.evaluation import Batch

BATCHES = 100  # of a data set are looked through


def batches(data: Batch) -> Iterator[Batch]:
    """The batches of a data set; of arrays all samples as one. A generator has none: it is spent.

    data  as given to `fit`: arrays, or a data set as inputs
    """
    x = data.inputs
    if of_arrays(data):
        if x is not None:
            yield data
        return
    if isinstance(x, keras.utils.PyDataset):
        count = x.num_batches
        places = itertools.count() if count is None else range(count)
        found: Anything = (x[place] for place in places)
    elif getattr(x, "__next__", None) is not None:
        return
    else:
        found = iter(x)
    for batch in itertools.islice(found, BATCHES):
        yield Batch(*keras.utils.unpack_x_y_sample_weight(batch))


def first_batch(data: Batch, size: int) -> Batch | None:
    """A batch to look at; None if there is none to be had a second time.

    size  of one of arrays
    """

    def cut(leaf: Anything) -> Anything:
        if leaf is None:
            return None
        array = ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else np.asarray(leaf)
        return array[:size]

    batch = next(batches(data), None)
    if batch is not data or batch is None:
        return batch
    return Batch(*(keras.tree.map_structure(cut, part) for part in batch))


def one_batch(x: Nest, y: Nest, sample_weight: Nest) -> Batch:
    """The batch that is given, or the first of a data set or generator."""
    data = Batch(x, y, sample_weight)
    if not of_arrays(data) and getattr(x, "__next__", None) is not None:
        return Batch(*keras.utils.unpack_x_y_sample_weight(next(x)))
    return next(batches(data), data)


def of_arrays(data: Batch) -> bool:
    """Whether these are arrays, and not a data set or generator."""
    return data.targets is not None or all(map(is_array, keras.tree.flatten(data.inputs)))


def is_array(leaf: Nest) -> bool:
    return leaf is None or getattr(leaf, "shape", None) is not None
