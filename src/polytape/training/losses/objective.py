"""One row of the routing table: a loss, what it trains, how much and when."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from polytape.contract import Tensor, is_number, is_whole, received
from polytape.contract.types import Anything, Config, LossLike, Nest
from polytape.training.losses.class_weights import check_class_weight

Weight = Anything  # a number, a LearningRateSchedule or a keras.Variable


@dataclass(frozen=True)
class Step:
    """What an objective's function may read of the step that is being made.

    Attributes:
        inputs: as given to `fit`, any nest of tensors
        targets: as given to `fit`, any nest of tensors; None if there are none
        outputs: what the forward pass returned
        networks: {name: network}; of a model without networks its layers by name. Called here, they
            run in the mode of the step: training or not
        sample_weight: as given to `fit`, or None
        training: whether this is a training step
        count: () int32, training steps made before this one
    """

    inputs: Nest
    targets: Nest
    outputs: Nest
    networks: Mapping[str, keras.layers.Layer]
    sample_weight: Nest
    training: bool
    count: Tensor


@keras.saving.register_keras_serializable(package="polytape")
@dataclass(frozen=True)
class FromInput:
    """An input as the target of an objective: `fit(x)` of an autoencoder needs no `y`.

    The objective compares its output with that input as `fit` got it. NaN in it is no label.

    Args:
        key: of the input, where there are several: its name in a dict, its place in a list, "a/b"
            or "a/0" within one another. None: the only one there is

    Example:
        >>> import keras, numpy as np, polytape as pt
        >>> x = keras.Input((3,))
        >>> model = pt.Model(x, {"image": keras.layers.Dense(3)(x)})
        >>> model.compile("sgd", objectives=[pt.Objective("image", "mse", target=pt.FromInput())])
        >>> sorted(model.fit(np.ones((4, 3)), verbose=0).history)
        ['image_loss', 'loss']
    """

    key: str | int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.key, bool) or not isinstance(self.key, (str, int, type(None))):
            raise TypeError(
                "pt.FromInput takes the name or the place of an input, "
                f'pt.FromInput("image"). {received(self.key)}'
            )

    def get_config(self) -> Config:
        return {"key": self.key}

    @classmethod
    def from_config(cls, config: Config) -> "FromInput":
        return cls(**config)


@keras.saving.register_keras_serializable(package="polytape")
class Objective:
    """A named loss and the networks that it trains: a row of the routing table.

    An objective that is not active has no gradient in that step, and the others are combined as if
    it did not exist. One whose target has no label in the batch is not active: labels that are NaN,
    of a class that the loss ignores (`ignore_class`), hidden by Keras's mask or of sample weight
    zero do not count.

    Args:
        name: how logs, errors and `reweight` call it
        loss: a Keras loss (name, object or function of `y_true, y_pred`) between an output and a
            target, in which NaN means that there is no label; or a function of the step, a
            `pt.Step`, that returns a scalar: it reads any input, output or target and may call
            networks
        trains: networks, layers, patterns of variable paths ("decoder/*/kernel"), layer or variable
            objects: one or a list. None: every variable that the loss reaches
        weight: a number, a Keras `LearningRateSchedule` of the step count, or a `keras.Variable`
            that callbacks change. Multiplies loss and gradient; `model.reweight` changes a number,
            and a method that learns weights (`combine=pt.UW()`) learns them on top
        every: active in one training step of so many
        when: function of the step, () bool: active where it is true
        output: key of the output that a Keras loss compares; the name by default
        target: key of its target; that of the output by default. `pt.FromInput()` compares the
            output with an input: `pt.FromInput("image")` with one of several
        class_weight: {class number: weight}, at least 0, of a Keras loss: entries whose target is
            of that class count so often, in the loss and in weighted metrics, in training and in
            evaluation; classes that are not in it count once. Targets are class numbers, one-hot,
            or 0 and 1 for an output of one number. It multiplies `sample_weight`; a mean stays one
            over all labels, as with Keras's `fit(class_weight=...)`
        per: "example": every example of the batch is an objective of its own, for a method that
            reads the Gramian and keeps no state (`combine="upgrad"`); "step": every time step of
            every example. The losses are the terms of the mean (or sum) that is logged, so that
            `combine="sum"` is what it is without `per`. Nothing may mix examples, as
            BatchNormalization does in training. A function of the step returns (N,), or (N, L), and
            its loss is their mean. None: the loss of the batch is one objective

    Raises:
        TypeError: Where an argument is of a kind that cannot be meant.
        ValueError: Where its value cannot be.

    Example:
        >>> import keras, polytape as pt
        >>> pt.Objective("sparsity", lambda step: keras.ops.mean(abs(step.outputs["code"])),
        ...              trains="encoder", weight=0.1)
        Objective('sparsity', trains=('encoder',))
    """

    def __init__(
        self,
        name: str,
        loss: LossLike,
        trains: Anything = None,
        weight: Anything = 1.0,
        every: int = 1,
        when: Callable[[Step], Tensor] | None = None,
        output: Anything = None,
        target: Anything = None,
        class_weight: Mapping[int, float] | None = None,
        per: Literal["example", "step"] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(
                f'An Objective needs a name, pt.Objective("image", "mse"). Received: {name!r}.'
            )
        self.name, self.loss, self.when = name, loss, when
        self.trains = _named(name, trains)
        self.weight: Weight = _weight(name, weight)
        self.output = name if output is None else output
        self.target = self.output if target is None else target
        self._bound = output, target
        if not is_whole(every) or every < 1:
            raise ValueError(
                f"Objective {name!r}: `every` counts steps, from 1. Received: {every!r}."
            )
        self.every = int(every)
        if when is not None and not callable(when):
            raise TypeError(
                f"Objective {name!r}: `when` is a function of the step. Received: {when!r}."
            )
        _check_keys(name, output, target)
        self.of_step = _takes_step(name, loss)
        if self.of_step and (output is not None or target is not None):
            raise ValueError(
                f"Objective {name!r}: `output` and `target` bind a Keras loss; a function of the "
                "step reads step.outputs and step.targets itself."
            )
        self.class_weight = check_class_weight(name, class_weight, self.of_step)
        if per not in (None, "example", "step"):
            raise ValueError(
                f'Objective {name!r}: `per` is "example", "step" or None, for one objective for '
                f"the whole batch. Received: {per!r}."
            )
        self.per = per

    @property
    def start(self) -> float | LearningRateSchedule:
        """The weight, that of a variable as a number."""
        weight = self.weight
        return float(weight.numpy()) if isinstance(weight, keras.Variable) else weight

    def __repr__(self) -> str:
        return f"Objective({self.name!r}, trains={self.trains})"

    def get_config(self) -> Config:
        output, target = self._bound
        return {
            "name": self.name,
            "loss": keras.saving.serialize_keras_object(self.loss),
            "trains": None if self.trains is None else [_path(item) for item in self.trains],
            "weight": keras.saving.serialize_keras_object(self.start),
            "every": self.every,
            "when": keras.saving.serialize_keras_object(self.when),
            "output": output,
            "target": keras.saving.serialize_keras_object(target),
            # As pairs: JSON makes texts of the keys of a dict.
            "class_weight": self.class_weight and [[*pair] for pair in self.class_weight.items()],
            "per": self.per,
        }

    @classmethod
    def from_config(cls, config: Config) -> "Objective":
        found = {key: keras.saving.deserialize_keras_object(item) for key, item in config.items()}
        pairs = found.pop("class_weight", None)
        return cls(**found, class_weight=pairs and dict(pairs))


def _check_keys(name: str, output: Anything, target: Anything) -> None:
    """Raise if `output` or `target` cannot be a key."""
    for what, key in (("output", output), ("target", target)):
        if isinstance(key, FromInput) and what == "target":
            continue
        if key is None or (isinstance(key, (str, int)) and not isinstance(key, bool)):
            continue
        raise TypeError(
            f"Objective {name!r}: `{what}` is the name of an entry, or its place in a list. An "
            f'input is a target by pt.FromInput("image"). {received(key)}'
        )


def _named(name: str, trains: Anything) -> tuple[Anything, ...] | None:
    if trains is None:
        return None
    items = (
        tuple(trains) if isinstance(trains, Sequence) and not isinstance(trains, str) else (trains,)
    )
    if not items:
        raise ValueError(
            f"Objective {name!r}: `trains` is empty, so its gradient would go nowhere. Leave it "
            "out to train all that the loss reaches, or remove the objective."
        )
    for item in items:
        if not isinstance(item, (str, keras.layers.Layer, keras.Variable)):
            raise TypeError(
                f"Objective {name!r}: `trains` holds names of networks or layers, path patterns, "
                f"layers or variables. Received: {item!r} of type {type(item).__name__}."
            )
    return items


def _weight(name: str, weight: Anything) -> Weight:
    if isinstance(weight, (LearningRateSchedule, keras.Variable)):
        return weight
    if not is_number(weight):
        raise TypeError(
            f"Objective {name!r}: `weight` is a number, a LearningRateSchedule or a "
            f"keras.Variable. Received: {weight!r} of type {type(weight).__name__}. Weights that "
            "are learned come with a method: combine=pt.UW()."
        )
    if not np.isfinite(weight):
        raise ValueError(
            f"Objective {name!r}: `weight` must be finite. Received: {weight!r}. To leave an "
            "objective out of some steps use `when` or `every`."
        )
    return float(weight)


def _takes_step(name: str, loss: LossLike) -> bool:
    """Whether a loss is a function of the step rather than of a target and an output."""
    if isinstance(loss, (str, keras.losses.Loss)):
        return False
    if isinstance(loss, type) and issubclass(loss, keras.losses.Loss):
        raise TypeError(
            f"Objective {name!r}: its loss is the class {loss.__name__} itself: add the "
            "parentheses."
        )
    if not callable(loss):
        raise TypeError(
            f"Objective {name!r}: `loss` is a Keras loss or a function of the step. "
            f"Received: {loss!r} of type {type(loss).__name__}."
        )
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(loss).parameters.values()
    needed = [p for p in taken if p.kind in kinds and p.default is p.empty]
    if len(needed) not in (1, 2):
        raise TypeError(
            f"Objective {name!r}: its loss takes {len(needed)} arguments. A function of the step "
            "takes one, the step; a Keras loss takes two, y_true and y_pred."
        )
    return len(needed) == 1


def _path(item: Anything) -> str:
    """A name by which a saved model finds a layer or variable again."""
    if isinstance(item, keras.Variable):
        return item.path
    return item if isinstance(item, str) else item.name
