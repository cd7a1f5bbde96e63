"""Keras's own loss evaluation, listened to: the value of every loss given to `compile`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor, did_you_mean, is_number, received
from polytape.differentiation.losses import check_scalar
from polytape.engines import stand_in, unheard
from polytape.training.objectives.labels import Holes, Labelled, Labels, of_labelled, same_rank
from polytape.training.objectives.samples import sample_losses

Path = tuple[Any, ...]
_SHORT = ("mse", "mae", "mape", "msle", "bce", "kld")  # names that Keras knows besides its own
Parts = list[Tensor]  # the loss of a batch, of its two halves, of its first samples (a vector)


class Note(NamedTuple):
    """What one loss came to: its parts, what Keras got of it, and the labels that it found."""

    path: Path
    parts: Parts
    returned: Tensor
    labels: Labels


class Ledger:
    """The losses of one `compile(loss=...)`: names, weights, and values as Keras computes them.

    Keras evaluates the losses itself (targets matched to outputs, masks, sample weights, metrics);
    each leaf of the `loss` argument is replaced by one that notes the value it returns. Where
    targets may be NaN that is the loss of what is labelled, and Keras's own elsewhere.
    """

    def __init__(
        self,
        loss: Any,
        loss_weights: Any,
        halves: bool = False,
        samples: int = 0,
        holes: Holes | None = None,
    ) -> None:
        """halves   whether the losses of both halves of the batch are noted, too

        samples  how many samples' own losses are noted, too
        holes    whether targets may be NaN
        """
        self._noted: list[Note] = []
        self._gathering = self._several = False
        self._halves, self._samples = halves, samples
        self.holes = holes or Holes()
        self.described = loss  # what `model.loss` shows
        self.wrapped = self._wrap(loss, ())
        self._leaves = dict(_leaves(self.wrapped))
        self._weights = _weights(loss, loss_weights)

    def _wrap(self, loss: Any, path: Path) -> Any:
        if isinstance(loss, dict):
            return {key: self._wrap(item, (*path, key)) for key, item in loss.items()}
        if isinstance(loss, (list, tuple)):
            return type(loss)(self._wrap(item, (*path, i)) for i, item in enumerate(loss))
        if loss is None:
            return None
        place = f" of {'/'.join(map(str, path))!r}" if path else ""
        return _Noted(resolve_loss(loss, f"compile(loss=...): the loss{place}"), path, self)

    @property
    def losses(self) -> list[Any]:
        """The losses themselves, as they were given."""
        return [leaf.loss for leaf in self._leaves.values()]

    @property
    def empty(self) -> bool:
        """Whether no loss was given."""
        return not self._leaves

    def clear(self) -> None:
        """Forget the values of the last evaluation."""
        if not self._gathering:
            self._noted.clear()
            self._several = False

    @contextlib.contextmanager
    def gathering(self, names: Sequence[str]) -> Iterator[None]:
        """Keep the values of all evaluations made meanwhile: a user's code may make several.

        names  of the objectives that are asked for: always all of them
        """
        del names
        self.clear()
        self._gathering = self._several = True
        try:
            yield
        finally:
            self._gathering = False

    @contextlib.contextmanager
    def thrown_away(self) -> Iterator[None]:
        """Note nothing of what is evaluated meanwhile."""
        kept = list(self._noted)
        try:
            with unheard():
                yield
        finally:
            self._noted[:] = kept

    @property
    def evaluated(self) -> bool:
        """Whether there are values."""
        return bool(self._noted)

    def note(
        self, loss: keras.losses.Loss, path: Path, y_true: Any, y_pred: Any, sample_weight: Any
    ) -> Tensor:
        """Evaluate the loss at a path: its value, as Keras is to see it."""
        compared = y_true, y_pred, sample_weight
        whole = not self.holes.possible
        found, labels = loss_parts(loss, *compared, self._halves, self._samples, whole)
        parts = [ops.cast(part, keras.config.floatx()) for part in found]
        returned = stand_in(found[0])
        self._noted.append(Note(path, parts, returned, labels))
        return returned

    def share(self) -> Tensor | None:
        """() float32: of the entries of the loss just evaluated those with a label; None: all."""
        return self._noted[-1].labels.share

    def present(self, names: Sequence[str], as_keras: bool) -> Tensor | None:
        """(T,) bool: which of `names` have a label in the batch just evaluated; None: all.

        as_keras  whether only NaN is no label. Else one does not count, either, whose sample weight
                  is zero, that a mask hides or that is of a class that the loss ignores
        """

        def of(labels: Labels) -> Tensor | None:
            if as_keras:
                return labels.count > 0 if labels.holes else None
            return labels.present if labels.may_be_none else None

        if not self.evaluated:  # there is nothing but added losses, or a loss of the user's own
            return None
        found = [of(note.labels) for note in self._evaluations(names)[-1]]
        if all(present is None for present in found):
            return None
        return ops.stack([ops.ones((), "bool") if p is None else p for p in found])

    def ignored(self, path: Path, output_names: Sequence[str] = ()) -> int | None:
        """The class that a loss of the output at a path ignores, if one does."""
        known = list(output_names)

        def named(part: Any) -> Any:
            return known[part] if isinstance(part, int) and part < len(known) else part

        for leaf, noted in self._leaves.items():
            same = [*map(named, leaf[:1]), *leaf[1:]][: len(path)] == [
                *map(named, path[:1]),
                *path[1:],
            ][: len(leaf)]
            if (same or len(self._leaves) == 1) and noted.ignore_class is not None:
                return noted.ignore_class
        return None

    def names(self, outputs: Any, output_names: Sequence[str]) -> tuple[str, ...] | None:
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

    def values(self, names: Sequence[str], part: int = 0) -> list[Tensor]:
        """Weighted values, () each, of the evaluation just made, in the order of `names`.

        part  0: of the whole batch; 1, 2: of its first and second half, where these are noted;
              -1: of its first samples, a vector, where these are
        """
        last = self._evaluations(names)[-1]
        return [self._weighted(note.path, note.parts[part]) for note in last]

    def returned(self, names: Sequence[str]) -> list[Tensor]:
        """Weighted values as Keras got them, of the evaluation just made."""
        last = self._evaluations(names)[-1]
        return [self._weighted(note.path, note.returned) for note in last]

    def gathered(self, names: Sequence[str], part: int = 0) -> list[Tensor]:
        """Values, without weights, of all evaluations that were gathered, as they were made."""
        self._evaluations(names)
        return [note.parts[part] for note in self._noted]

    def gathered_of(self, names: Sequence[str]) -> list[int]:
        """The objective, by place, of each of the values that were gathered."""
        found = [(id(note), t) for each in self._evaluations(names) for t, note in enumerate(each)]
        place = dict(found)
        return [place[id(note)] for note in self._noted]

    def _weighted(self, path: Path, value: Tensor) -> Tensor:
        weight = self._weights.get(path)
        return value if weight is None else ops.multiply(value, weight)

    def _evaluations(self, names: Sequence[str]) -> list[list[Note]]:
        """The notes of each evaluation, in the order of `names`."""
        order, count = list(self._leaves), len(names)
        whole = not len(self._noted) % count if self._several else len(self._noted) == count
        if not self._noted or not whole:
            raise ValueError(
                f"Compiled for {count} objectives ({', '.join(names)}), but this step "
                f"computed {len(self._noted)} losses. If outputs, losses or targets changed since "
                "compile(), call compile() again."
            )
        found = []
        for start in range(0, len(self._noted), count):
            noted = self._noted[start : start + count]
            found.append(sorted(noted, key=lambda note: order.index(note.path)))  # stable
            for name, note in zip(names, found[-1], strict=True):
                check_scalar(name, note.parts[0])
        return found

    def check_targets(self, targets: Any) -> None:
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

    def check_outputs(self, outputs: Any, output_names: Sequence[str]) -> None:
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
    """A loss whose values go through a ledger."""

    def __init__(self, loss: keras.losses.Loss, path: Path, ledger: Ledger) -> None:
        super().__init__(name=loss.name, dtype=loss.dtype)
        self.loss, self._path, self._ledger = loss, path, ledger
        self.ignore_class: int | None = getattr(loss, "ignore_class", None)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        return self._ledger.note(self.loss, self._path, y_true, y_pred, sample_weight)


def loss_parts(
    loss: keras.losses.Loss,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    halves: bool,
    samples: int,
    whole: bool = False,
) -> tuple[Parts, Labels]:
    """The loss of a batch, then of its halves, then the losses of single samples, where asked for.

    halves   whether the losses of the first and of the second half are wanted
    samples  how many samples' own losses are wanted, as one vector
    whole    whether it is known that no target is NaN

    And the labels of the batch.
    """
    value, labels = of_labelled(loss, y_true, y_pred, sample_weight, whole)
    labelled = Labelled(loss, whole)
    weights = _of_halves(y_pred, sample_weight) if halves else ()
    found = [value, *(labelled(y_true, y_pred, weight) for weight in weights)]
    if samples:
        found.append(sample_losses(labelled, y_true, y_pred, sample_weight, value, samples))
    return found, labels


def _of_halves(y_pred: Tensor, sample_weight: Tensor | None) -> list[Tensor]:
    """Sample weights that make the loss of a batch that of its first and of its second half."""
    count = ops.shape(y_pred)[0]
    first = ops.cast(ops.arange(count) < count // 2, "float32")
    found = []
    for half in (first, 1.0 - first):
        share = half * (ops.cast(count, "float32") / ops.maximum(ops.sum(half), 1.0))
        rank = max(len(y_pred.shape) - 1, 1) if sample_weight is None else len(sample_weight.shape)
        share = ops.reshape(share, (-1,) + (1,) * (rank - 1))
        found.append(share if sample_weight is None else ops.multiply(share, sample_weight))
    return found


class _FunctionLoss(keras.losses.Loss):
    """A loss function as a loss object, with the rank matching and the mean that Keras gives it."""

    def __init__(self, function: Any) -> None:
        name = getattr(function, "__name__", "loss")
        super().__init__(name=name.strip("_<>") or "loss")  # TensorFlow names a scope after it
        self.fn = function  # as Keras calls it

    def call(self, y_true: Any, y_pred: Any) -> Tensor:
        if ops.is_tensor(y_true) and ops.is_tensor(y_pred):
            y_true, y_pred = same_rank(y_true, y_pred)
        return self.fn(y_true, y_pred)


def resolve_loss(loss: Any, whose: str = "A loss") -> keras.losses.Loss:
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


def _leaves(nest: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, leaf) of a nest of dicts and lists, in the order written, without None."""
    if isinstance(nest, dict):
        for key, item in nest.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(nest, (list, tuple)):
        for index, item in enumerate(nest):
            yield from _leaves(item, (*path, index))
    elif nest is not None:
        yield path, nest


def _weights(loss: Any, weights: Any) -> dict[Path, Any]:
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


def _check_weight(path: Path, weight: Any) -> None:
    """Raise if a weight is known to be no finite number."""
    if ops.is_tensor(weight) or isinstance(weight, keras.Variable):
        return
    if not is_number(weight) or not np.isfinite(weight):
        place = f" of {'/'.join(map(str, path))!r}" if path else ""
        raise ValueError(
            f"compile(loss_weights=...): the weight{place} must be a finite number. "
            f"{received(weight)}"
        )


def _name_outputs(outputs: Any, output_names: Sequence[str]) -> tuple[str, ...]:
    found = keras.tree.flatten_with_path(outputs)  # as Keras does: the keys of a dict sorted
    if len(found) == 1:
        return ("loss",)
    if len(output_names) == len(found) and not isinstance(outputs, dict):
        return tuple(output_names)
    return tuple("/".join(map(str, path)) for path, _ in found)
