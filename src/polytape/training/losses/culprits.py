"""Once a loss was not finite: whether it is the data, or a variable, that is not."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from polytape.contract.types import Anything, Array, Key, Nest

BATCHES = 100  # of a data set are looked through


def culprits(x: Nest, y: Nest, targets: Mapping[str, Anything], places: Mapping[str, int]) -> str:
    """What in the data of a `fit` is not finite, as sentences with a space before; or nothing.

    x, y     as given to `fit`: arrays, or a data set as `x`. One that yields its batches only once
             is not looked at
    targets  {objective: key of its target}, of those that were not finite
    places   likewise its place where targets are in a list

    NaN in a target is no label, so it is Inf that is looked for there.
    """
    bad: dict[str, None] = {}
    for inputs, labels in _batches(x, y):
        for name, key in targets.items():
            found = _of(labels, key, places[name])
            if any(np.isinf(leaf).any() for leaf in _floats(found)):
                bad[f"The targets of objective {name!r} contain Inf."] = None
        kinds = {"NaN": np.isnan, "Inf": np.isinf}
        for leaf in _floats(inputs):
            there = [kind for kind, test in kinds.items() if test(leaf).any()]
            if there:
                bad[f"The inputs contain {' and '.join(there)}."] = None
        if bad:
            break
    return "".join(f" {sentence}" for sentence in bad)


def spoilt(variables: Sequence[keras.Variable]) -> str:
    """A sentence, with a space before, that names variables that are not finite; or nothing.

    No step can mend them: they came out of a file, or of an optimizer's infinite rate.
    """
    bad = {
        variable.path: None
        for variable in variables
        if "float" in str(variable.dtype)
        and not np.isfinite(ops.convert_to_numpy(ops.cast(variable.value, "float32"))).all()
    }
    if not bad:
        return ""
    names = ", ".join(map(repr, [*bad][:4])) + f" and {len(bad) - 4} more" * (len(bad) > 4)
    return (
        f" Not finite themselves are the variables {names}: load sound values, or make the model "
        "anew."
    )


def _batches(x: Nest, y: Nest) -> Iterator[tuple[Nest, Nest]]:
    """Inputs and targets; the arrays of a whole fit are one batch."""
    if y is not None or all(_is_array(leaf) for leaf in keras.tree.flatten(x)):
        yield x, y
        return
    if isinstance(x, keras.utils.PyDataset):
        count = x.num_batches
        places = itertools.count() if count is None else range(count)
        batches: Anything = (x[place] for place in places)
    elif getattr(x, "__next__", None) is not None:  # a generator: it is spent
        return
    else:
        batches = iter(x)
    for batch in itertools.islice(batches, BATCHES):
        inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
        yield inputs, targets


def _is_array(leaf: Nest) -> bool:
    return leaf is None or getattr(leaf, "shape", None) is not None


def _floats(nest: Nest) -> Iterator[Array]:
    for leaf in keras.tree.flatten(nest):
        if _is_array(leaf) and leaf is not None:
            array = ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else np.asarray(leaf)
            if np.issubdtype(array.dtype, np.floating):
                yield array


def _of(targets: Nest, key: Key, place: int) -> Nest:
    """The target under a key, or at a place, or the only one."""
    if isinstance(targets, Mapping):
        return targets.get(key)
    if isinstance(targets, Sequence):
        place = key if isinstance(key, int) else place
        return targets[place] if place < len(targets) else None
    return targets
