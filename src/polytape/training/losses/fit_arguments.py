"""What `fit` and `evaluate` are given: looked through, and completed, before the step is made."""

import inspect
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from polytape.contract import did_you_mean
from polytape.contract.types import Anything, Function, Nest


def arguments(
    method: Function, args: Anything, kwargs: Mapping[str, Anything]
) -> dict[str, Anything]:
    """The arguments of a call of one of Keras's methods, by name."""
    bound = inspect.signature(method).bind(*args, **kwargs)
    return {**bound.arguments.pop("kwargs", {}), **bound.arguments}


def whole(x: Nest, y: Nest, validation: Nest = None) -> bool:
    """Whether it is sure that no target is NaN.

    x, y        as given to `fit`; a data set, a generator and the like cannot be looked through
    validation  likewise, as `validation_data`
    """
    if isinstance(validation, (tuple, list)):
        if len(validation) > 1 and not _without_nan(validation[1]):
            return False
    elif validation is not None:
        return False
    if y is not None:
        return _without_nan(y)
    return all(_shape(leaf) is not None for leaf in keras.tree.flatten(x) if leaf is not None)


def _without_nan(targets: Nest) -> bool:
    for leaf in keras.tree.flatten(targets):
        if leaf is None:
            continue
        if _shape(leaf) is None:
            return False
        array = ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else np.asarray(leaf)
        if array.dtype == object or (array.dtype.kind not in "biuSU" and np.isnan(array).any()):
            return False
    return True


def _shape(leaf: Nest) -> Anything:
    return getattr(leaf, "shape", None)


def completed(sample_weight: Nest, targets: Nest) -> Nest:
    """Sample weights by target, None for targets that none are given for.

    Raises ValueError for weights of something that is no target.
    """
    if not isinstance(sample_weight, Mapping) or not isinstance(targets, Mapping):
        return sample_weight
    for key in sample_weight:
        if key not in targets:
            raise ValueError(
                f"`sample_weight` has weights for {key!r}, which is not a target."
                f"{did_you_mean(key, targets, cutoff=0.6)} "
                f"Targets: {', '.join(map(repr, targets))}."
            )
    return {key: completed(sample_weight.get(key), targets[key]) for key in targets}


def check_class_weight(class_weight: Anything, targets: Nest) -> None:
    """Raise ValueError where Keras's `class_weight` has no meaning: for several targets."""
    if class_weight is None:
        return
    several = keras.tree.is_nested(targets) and len(keras.tree.flatten(targets)) > 1
    by_head = isinstance(class_weight, Mapping) and any(
        isinstance(key, str) or isinstance(item, Mapping) for key, item in class_weight.items()
    )
    if several or by_head:
        raise ValueError(
            "`class_weight` maps the class numbers of one output to weights, {0: 1.0, 1: 5.0}. "
            f"Received: {class_weight!r} for {'several targets' if several else 'heads by name'}. "
            "Give each output its own, with its objective: compile(objectives=["
            'pt.Objective("a", "sparse_categorical_crossentropy", '
            "class_weight={0: 1.0, 1: 5.0}), ...])."
        )
