"""What `zip_objectives` takes as a data set: arrays and sequences, or batches that come again."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

Batch = tuple[Any, Any, Any]  # x, y or None, sample weights or None
KINDS = (
    "a tuple of arrays (x, y) or (x, y, sample_weight), a keras.utils.PyDataset, a "
    "tf.data.Dataset, a PyTorch DataLoader, anything else that gives its batches every time it is "
    "iterated over, or a function that returns an iterator"
)


class Arrays:
    """Batches of the same samples of several arrays, in a new order in every round.

    parts     x, y, sample weights: nests (dicts and tuples) of arrays, and of lists of arrays
    order     draws the order; None keeps that of the arrays
    padding   what the sequences x are padded with
    multiple  of which padded lengths are a multiple
    """

    def __init__(
        self,
        name: str,
        parts: tuple[Any, ...],
        batch_size: int,
        order: np.random.Generator | None,
        padding: float,
        multiple: int,
    ) -> None:
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                f"The arrays of {name!r} are (x,), (x, y) or (x, y, sample_weight). "
                f"Received: a tuple of {len(parts)}."
            )
        self._parts = tuple(_map(lambda leaf: _leaf(name, leaf), part) for part in parts)
        self._fills = (padding, np.nan, 0.0)
        self._batch_size, self._order, self._multiple = batch_size, order, multiple
        counts = {len(leaf) for part in self._parts for leaf in _leaves(part)}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"The arrays of {name!r} need the same number of samples, one at least. Received: "
                f"{', '.join(map(str, sorted(counts)))} samples."
            )
        self._count = counts.pop()

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        rows = (
            np.arange(self._count) if self._order is None else self._order.permutation(self._count)
        )
        for start in range(0, self._count, self._batch_size):
            chosen = rows[start : start + self._batch_size]
            yield tuple(
                _map(lambda leaf: self._take(leaf, chosen, fill), part)  # noqa: B023
                for part, fill in zip(self._parts, self._fills, strict=False)
            )

    def _take(self, leaf: Any, chosen: np.ndarray, fill: float) -> np.ndarray:
        if isinstance(leaf, list):
            return pad([leaf[row] for row in chosen], fill, self._multiple)
        return _floatx(leaf[chosen])

    def widened(self, batch: Batch) -> Batch:
        """The same batch with sequences longer than in any other."""

        def wider(leaf: Any, array: Any) -> Any:
            if not isinstance(leaf, list):
                return array
            more = max(len(item) for item in leaf) + self._multiple
            return np.pad(array, [(0, 0), (0, more), *[(0, 0)] * (array.ndim - 2)])

        parts = (*self._parts, None, None)[:3]
        x, y, weight = (_map(wider, part, array) for part, array in zip(parts, batch, strict=True))
        return x, y, weight


def pad(items: list[np.ndarray], fill: float, multiple: int) -> np.ndarray:
    """Sequences (length, ...) as one array (N, longest, ...), filled behind."""
    longest = -(-max(len(item) for item in items) // multiple) * multiple
    dtype = items[0].dtype
    if np.isnan(fill) and dtype.kind != "f":
        dtype = np.dtype("float32")
    padded = np.full((len(items), longest, *items[0].shape[1:]), fill, dtype)
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    return _floatx(padded)


class Stream:
    """The batches of a source, round after round."""

    def __init__(self, name: str, source: Any) -> None:
        self.source = source
        self._name = name
        self._open = _opener(name, source)
        self._batches: Iterator[Any] = iter(())

    def next(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = self._open()
            batch = next(self._batches, None)
        if batch is None:
            raise ValueError(
                f"The data set of {self._name!r} has no batches: {self.source!r:.80}. If it is a "
                "function, let it return a new iterator in every call."
            )
        return keras.utils.unpack_x_y_sample_weight(batch)

    def widened(self, batch: Batch) -> Batch:
        return self.source.widened(batch) if isinstance(self.source, Arrays) else batch

    def __len__(self) -> int:
        if isinstance(self.source, keras.utils.PyDataset):
            found = self.source.num_batches
        else:
            try:
                found = len(self.source)
            except TypeError:
                found = None
        if found is None:
            raise ValueError(
                f"How many batches the data set of {self._name!r} has is not known, so not where "
                f"an epoch ends: {self.source!r:.80}. Pass the number of steps: stop=100."
            )
        if found == 0:
            raise ValueError(f"The data set of {self._name!r} is empty: {self.source!r:.80}.")
        return int(found)


def _opener(name: str, source: Any) -> Callable[[], Iterator[Any]]:
    """What starts a round."""
    if isinstance(source, keras.utils.PyDataset):
        return lambda: _round(source)
    if isinstance(source, Iterator):
        raise ValueError(
            f"The data set of {name!r} is an iterator, which is used up after one round: "
            f"{source!r:.80}. Pass the generator function itself, or lambda: iterator()."
        )
    arrays = isinstance(source, list) and any(is_array(item) for item in source)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)) and not arrays:
        return lambda: iter(source)
    if callable(source):
        return lambda: iter(source())
    hint = " A list is one of batches; arrays go in a tuple." if arrays else ""
    raise TypeError(
        f"The data set of {name!r} is neither of these: {KINDS}. Received: "
        f"{type(source).__name__} {source!r:.80}.{hint}"
    )


def _round(source: keras.utils.PyDataset) -> Iterator[Any]:
    source.on_epoch_begin()
    index, count = 0, source.num_batches
    while count is None or index < count:
        yield source[index]
        index += 1
    source.on_epoch_end()


def is_array(value: Any) -> bool:
    """Whether it is an array, a tensor of any framework, or a table."""
    return getattr(value, "shape", None) is not None


def _leaf(name: str, leaf: Any) -> Any:
    """An array, or a list of arrays that are padded later."""
    if not isinstance(leaf, list):
        array = np.asarray(leaf)
        if array.ndim == 0:
            raise TypeError(
                f"The arrays of {name!r} hold something else: {type(leaf).__name__} {leaf!r:.80}."
            )
        if array.dtype != object or array.ndim > 1:
            return array
    items = [np.asarray(item) for item in leaf]
    if all(item.ndim == 0 for item in items):
        return np.asarray(items)
    shapes = {item.shape[1:] if item.ndim else "a number" for item in items}
    if len(shapes) > 1:
        raise ValueError(
            f"Sequences of {name!r} may differ in their first axis only. Received: sequences of "
            f"{' and '.join(map(str, shapes))}."
        )
    return items


def _floatx(array: np.ndarray) -> np.ndarray:
    return array.astype(keras.config.floatx()) if array.dtype == "float64" else array


def _map(function: Callable[..., Any], nest: Any, *others: Any) -> Any:
    """A function of the leaves of a nest of dicts and tuples; lists are leaves, None stays."""
    if isinstance(nest, dict):
        return {key: _map(function, nest[key], *(o[key] for o in others)) for key in nest}
    if isinstance(nest, tuple):
        return tuple(_map(function, *leaves) for leaves in zip(nest, *others, strict=True))
    return None if nest is None else function(nest, *others)


def _leaves(nest: Any) -> Iterator[Any]:
    found: list[Any] = []
    _map(found.append, nest)
    return iter(found)
