"""Keras's own loss evaluation, listened to: the value of every loss given to `compile`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor, did_you_mean, is_number, received
from polytape.contract.types import Anything, Function, Key, LossLike, Nest
from polytape.differentiation.losses import check_scalar
from polytape.engines import stand_in, unheard
from polytape.evidence import Kind
from polytape.training.losses.evaluation import (
    Call,
    Evaluation,
    Listener,
    LossValue,
    Parts,
    all_present,
    cast,
    compare,
    divisors,
)
from polytape.training.losses.missing_labels import Holes, Labels, same_rank

Path = tuple[Anything, ...]
_SHORT = ("mse", "mae", "mape", "msle", "bce", "kld")  # names that Keras knows besides its own


class Note(NamedTuple):
    """What one loss came to, and what Keras got of it."""

    path: Path
    loss: LossValue
    returned: Tensor


class KerasLosses:
    """The losses of one `compile(loss=...)`: names, weights, and values as Keras computes them.

    Keras evaluates the losses itself (targets matched to outputs, masks, sample weights, metrics);
    each leaf of the `loss` argument is replaced by one that notes the value it returns. Where
    targets may be NaN that is the loss of what is labelled, and Keras's own elsewhere.

    evaluations  for whoever wants to hear what they come to
    """

    def __init__(
        self,
        loss: LossLike,
        loss_weights: Anything,
        kinds: Sequence[Kind] = (),
        plain: bool = False,
        holes: Holes | None = None,
    ) -> None:
        """kinds  of evidence that want more recorded than the losses

        plain  whether only their sum is wanted, as in Keras: then only NaN is no label. Else one
               does not count, either, whose sample weight is zero, that a mask hides or that is of
               a class that the loss ignores
        holes  whether targets may be NaN
        """
        self._notes: Listener[Note] = Listener()
        self.evaluations: Listener[Evaluation] = Listener()
        self.kinds, self._plain = tuple(kinds), plain
        self.holes = holes or Holes()
        self.described = loss  # what `model.loss` shows
        self.wrapped = self._wrap(loss, ())
        self._leaves = dict(_leaves(self.wrapped))
        self._weights = _weights(loss, loss_weights)

    def _wrap(self, loss: LossLike, path: Path) -> Anything:
        if isinstance(loss, dict):
            return {key: self._wrap(item, (*path, key)) for key, item in loss.items()}
        if isinstance(loss, (list, tuple)):
            return type(loss)(self._wrap(item, (*path, i)) for i, item in enumerate(loss))
        if loss is None:
            return None
        place = f" of {'/'.join(map(str, path))!r}" if path else ""
        return _Noted(resolve_loss(loss, f"compile(loss=...): the loss{place}"), path, self)

    @property
    def losses(self) -> list[LossLike]:
        """The losses themselves, as they were given."""
        return [leaf.loss for leaf in self._leaves.values()]

    @property
    def empty(self) -> bool:
        """Whether no loss was given."""
        return not self._leaves

    def evaluate(self, evaluated_by: Callable[[], Tensor]) -> tuple[Tensor, list[Note]]:
        """What Keras makes of the losses, and what each of them came to meanwhile."""
        with self._notes.listening() as notes:
            total = evaluated_by()
        return total, notes

    @contextlib.contextmanager
    def thrown_away(self) -> Iterator[None]:
        """Nobody hears of what is evaluated meanwhile."""
        with self._notes.listening(), unheard():
            yield

    def note(
        self, loss: keras.losses.Loss, path: Path, y_true: Nest, y_pred: Nest, sample_weight: Nest
    ) -> Tensor:
        """Evaluate the loss at a path: its value, as Keras is to see it."""
        whole = not self.holes.possible
        kinds = self.kinds if self.evaluations.heard else ()  # whoever evaluates wants none
        found = compare(loss, y_true, y_pred, sample_weight, kinds, whole)
        returned = stand_in(found.value)
        self._notes.tell(Note(path, cast(found), returned))
        return returned

    def compared(
        self, outputs: Nest, output_names: Sequence[str]
    ) -> Iterator[tuple[str, keras.losses.Loss, Nest]]:
        """Of each objective its name, its loss and the output that this reads."""
        names = self.names(outputs, output_names) or ("loss",)
        for name, (path, leaf) in zip(names, self._leaves.items(), strict=True):
            found: Anything = outputs
            for key in path:
                if isinstance(found, dict):
                    found = found[key]
                elif isinstance(found, (list, tuple)):
                    found = found[key if isinstance(key, int) else [*output_names].index(key)]
            yield name, leaf.loss, found

    def share(self) -> Tensor | None:
        """() float32: of the entries of the loss just evaluated those with a label; None: all."""
        labels = self._notes.last.loss.labels
        return None if labels is None else labels.share

    def evaluation(self, names: Sequence[str], notes: Sequence[Note]) -> Evaluation:
        """The losses of one evaluation, noted as Keras made it.

        ValueError unless there is one for each of the `names`.
        """
        order, count = list(self._leaves), len(names)
        if len(notes) != count:
            raise ValueError(
                f"Compiled for {count} objectives ({', '.join(names)}), but this step "
                f"computed {len(notes)} losses. If outputs, losses or targets changed since "
                "compile(), call compile() again."
            )
        places = sorted(range(count), key=lambda place: order.index(notes[place].path))  # stable
        by_objective = [notes[place] for place in places]
        for name, note in zip(names, by_objective, strict=True):
            check_scalar(name, note.loss.value)
        parts = [self._weighted_parts(note) for note in by_objective]
        calls = [
            Call(places.index(place), note.loss.value, note.loss.parts)
            for place, note in enumerate(notes)
        ]
        return Evaluation(
            [self._weighted(note.path, note.loss.value) for note in by_objective],
            [self._weighted(note.path, note.returned) for note in by_objective],
            parts,
            calls,
            all_present([self._present(note.loss.labels) for note in by_objective]),
            divisors([note.loss.labels for note in by_objective]),
        )

    def _present(self, labels: Labels | None) -> Tensor | None:
        """() bool: whether there is a label; None: there always is."""
        if labels is None:
            return None
        if self._plain:
            return labels.count > 0 if labels.holes else None
        return labels.present if labels.may_be_none else None

    def _weighted_parts(self, note: Note) -> Parts:
        weight = self._weights.get(note.path)
        if weight is None:
            return note.loss.parts
        return {
            kind.name: [kind.weighted(part, weight) for part in note.loss.parts[kind.name]]
            for kind in self.kinds
            if kind.name in note.loss.parts
        }

    def _weighted(self, path: Path, value: Tensor) -> Tensor:
        weight = self._weights.get(path)
        return value if weight is None else ops.multiply(value, weight)

    def ignored(self, path: Path, output_names: Sequence[str] = ()) -> int | None:
        """The class that a loss of the output at a path ignores, if one does."""
        known = list(output_names)

        def named(part: Key) -> Anything:
            return known[part] if isinstance(part, int) and part < len(known) else part

        for leaf, noted in self._leaves.items():
            same = [*map(named, leaf[:1]), *leaf[1:]][: len(path)] == [
                *map(named, path[:1]),
                *path[1:],
            ][: len(leaf)]
            if (same or len(self._leaves) == 1) and noted.ignore_class is not None:
                return noted.ignore_class
        return None

    def names(self, outputs: Nest, output_names: Sequence[str]) -> tuple[str, ...] | None:
        """Objective names; None if they cannot be known before the outputs are.

        outputs       the model's outputs, any nest of tensors, or None
        output_names  their names if the model knows them, else empty
        """
        if list(self._leaves) == [()]:  # one loss for every output
            if outputs is None:
                return None
            return _name_outputs(outputs, output_names)
        names = [self._name(path, output_names) for path in self._leaves]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(
                f"Two objectives are called {sorted(twice)[0]!r}. Give the losses names of their "
                'own, as in keras.losses.MeanSquaredError(name="...").'
            )
        return tuple(names)

    def _name(self, path: Path, output_names: Sequence[str]) -> str:
        if not isinstance(path[-1], int):
            return "/".join(map(str, path))
        if len(path) == 1 and len(output_names) > 1 and path[0] < len(output_names):
            return output_names[path[0]]
        return "/".join(map(str, (*path[:-1], self._leaves[path].name)))

    def check_targets(self, targets: Nest) -> None:
        """Raise if losses named by output lack their target."""
        named = [path[0] for path in self._leaves if path and isinstance(path[0], str)]
        there = targets if isinstance(targets, dict) else ()
        missing = [name for name in named if name not in there]
        if targets is None and self._leaves:
            raise ValueError(
                "compile(loss=...) compares outputs with targets, and there are none: give `y`. A "
                "loss without a target is a pt.Objective that is a function of the step, or "
                "add_loss()."
            )
        if isinstance(targets, dict) and missing:
            raise ValueError(
                f"compile(loss=...) has a loss for {missing[0]!r}, and there is no target of that "
                f"name.{did_you_mean(missing[0], there, cutoff=0.6)} "
                f"Targets: {', '.join(map(repr, there)) or 'none'}."
            )

    def check_outputs(self, outputs: Nest, output_names: Sequence[str]) -> None:
        """Raise if a key of the `loss` dict is not an output."""
        known = list(outputs) if isinstance(outputs, dict) else list(output_names)
        for path in self._leaves:
            if path and isinstance(path[0], str) and known and path[0] not in known:
                hint = did_you_mean(path[0], known)
                raise ValueError(
                    f"compile(loss=...) has a loss for {path[0]!r}, but the model has no output of "
                    f"that name.{hint} Outputs: {', '.join(map(repr, known))}."
                )


class _Noted(keras.losses.Loss):
    """A loss whose values are noted."""

    def __init__(self, loss: keras.losses.Loss, path: Path, noted_by: KerasLosses) -> None:
        super().__init__(name=loss.name, dtype=loss.dtype)
        self.loss, self._path, self._noted_by = loss, path, noted_by
        self.ignore_class: int | None = getattr(loss, "ignore_class", None)

    def __call__(self, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> Tensor:
        return self._noted_by.note(self.loss, self._path, y_true, y_pred, sample_weight)


class _FunctionLoss(keras.losses.Loss):
    """A loss function as a loss object, with the rank matching and the mean that Keras gives it."""

    def __init__(self, function: Function) -> None:
        name = getattr(function, "__name__", "loss")
        super().__init__(name=name.strip("_<>") or "loss")  # TensorFlow names a scope after it
        self.fn = function  # as Keras calls it

    def call(self, y_true: Nest, y_pred: Nest) -> Tensor:
        if ops.is_tensor(y_true) and ops.is_tensor(y_pred):
            y_true, y_pred = same_rank(y_true, y_pred)
        return self.fn(y_true, y_pred)


def resolve_loss(loss: LossLike, whose: str = "A loss") -> keras.losses.Loss:
    """A loss object from a name, a function or a loss object; `whose` begins an error.

    Raises `TypeError` for a class, `ValueError` for a name that Keras does not know.
    """
    if isinstance(loss, type) and issubclass(loss, keras.losses.Loss):
        raise TypeError(
            f"{whose} is an object, a name or a function. Received the class {loss.__name__} "
            "itself: add the parentheses."
        )
    try:
        found = keras.losses.get(loss)
    except ValueError as error:
        known = [*_SHORT, *(name for name in dir(keras.losses) if not name.startswith("_"))]
        hint = did_you_mean(loss, known, cutoff=0.6) if isinstance(loss, str) else ""
        raise ValueError(
            f"{whose} is a Keras loss, its name, or a function of y_true and y_pred, and this is "
            f"none.{hint} {received(loss)}"
        ) from error
    return found if isinstance(found, keras.losses.Loss) else _FunctionLoss(found)


def _leaves(nest: Nest, path: Path = ()) -> Iterator[tuple[Path, Anything]]:
    """(path, leaf) of a nest of dicts and lists, in the order written, without None."""
    if isinstance(nest, dict):
        for key, item in nest.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(nest, (list, tuple)):
        for index, item in enumerate(nest):
            yield from _leaves(item, (*path, index))
    elif nest is not None:
        yield path, nest


def _weights(loss: LossLike, weights: Nest) -> dict[Path, Anything]:
    """Loss weights by the path of their loss, matched as Keras matches them."""
    paths = [path for path, _ in _leaves(loss)]
    if weights is None:
        return {}
    for path, weight in _leaves(weights):
        _check_weight(path, weight)
    if not isinstance(weights, (dict, list, tuple)):
        return dict.fromkeys(paths, weights)
    named = dict(_leaves(weights))
    if isinstance(loss, dict) and isinstance(weights, dict):
        for key in weights:
            if key not in loss:
                hint = did_you_mean(key, loss)
                raise ValueError(
                    f"compile(loss_weights=...) has a weight for {key!r}, which is not an "
                    f"objective.{hint} Losses: {', '.join(map(repr, map(str, loss)))}."
                )
        return named
    flat = list(named.values())
    if len(flat) != len(paths):
        raise ValueError(
            f"compile(loss_weights=...) needs one weight per loss. Received: {len(flat)} weights "
            f"for {len(paths)} losses."
        )
    return dict(zip(paths, flat, strict=True))


def _check_weight(path: Path, weight: Anything) -> None:
    """Raise if a weight is known to be no finite number."""
    if ops.is_tensor(weight) or isinstance(weight, keras.Variable):
        return
    if not is_number(weight) or not np.isfinite(weight):
        place = f" of {'/'.join(map(str, path))!r}" if path else ""
        raise ValueError(
            f"compile(loss_weights=...): the weight{place} must be a finite number. "
            f"{received(weight)}"
        )


def _name_outputs(outputs: Nest, output_names: Sequence[str]) -> tuple[str, ...]:
    found = keras.tree.flatten_with_path(outputs)  # as Keras does: the keys of a dict sorted
    if len(found) == 1:
        return ("loss",)
    if len(output_names) == len(found) and not isinstance(outputs, dict):
        return tuple(output_names)
    return tuple("/".join(map(str, path)) for path, _ in found)
