"""Once a loss was not finite: whether it is the data, or a variable, that is not."""

from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from polytape.contract.types import Anything, Array, Key, Nest
from polytape.training.losses.evaluation import Batch
from polytape.training.losses.fit_data import batches, is_array


def culprits(data: Batch, targets: Mapping[str, Anything], places: Mapping[str, int]) -> str:
    """What in the data of a `fit` is not finite, as sentences with a space before; or nothing.

    data     as given to `fit`: arrays, or a data set as inputs. One that yields its batches only
             once is not looked at
    targets  {objective: key of its target}, of those that were not finite
    places   likewise its place where targets are in a list

    NaN in a target is no label, so it is Inf that is looked for there.
    """
    bad: dict[str, None] = {}
    for inputs, labels, _ in batches(data):
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


def _floats(nest: Nest) -> Iterator[Array]:
    for leaf in keras.tree.flatten(nest):
        if is_array(leaf) and leaf is not None:
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
