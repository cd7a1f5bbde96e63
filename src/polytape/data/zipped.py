"""Several data sets, each with its own batch size and length, as one."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import keras
import numpy as np

from polytape.contract import check_seed, did_you_mean, is_number, is_whole, received
from polytape.data.sources import Arrays, Batch, Stream, is_array


def zip_objectives(
    sources: dict[str, Any],
    *,
    batch_size: int | dict[str, int] = 32,
    shuffle: bool = True,
    seed: int | None = None,
    stop: int | str = "longest",
    padding: float = 0,
    multiple: int = 1,
) -> "ZippedObjectives":
    """One data set per objective, or per task, as one data set of dicts with their names.

    A batch is `({"a": x_a, "b": x_b}, {"a": y_a, "b": y_b})`, with a third dict, of sample
    weights, if any source has some; those of the others are then 1. The second dict lacks sources
    without targets.

    Batches come in this order whatever `shuffle` says in `fit`.

    A source is one of

    * a tuple (x, y), (x, y, sample_weight) or (x,) of arrays of n samples, dicts or tuples of such,
      or lists of n arrays of different lengths, which are padded
    * a `keras.utils.PyDataset`, `tf.data.Dataset`, PyTorch `DataLoader`, or anything that gives its
      batches every time it is iterated over, such as a list of batches; they are read when they are
      needed, and never held
    * a function without arguments that returns an iterator of batches

    Args:
        sources: {name: source}, each of one of the kinds above
        batch_size: samples in a batch of arrays: one number, or one for each name
        shuffle: arrays come in a new order in every round; other sources decide themselves
        seed: of that order; None draws one from NumPy, as `keras.utils.set_random_seed` set it
        stop: where an epoch ends: with the "longest" source, while the others start again; with the
            "shortest", while the others go on in the next epoch; or after so many steps, which is
            needed where `len` of a source is not known
        padding: what sequences x are padded with, behind. Targets are padded with NaN, which is no
            label, and are floats then; sample weights are padded with 0
        multiple: of which padded lengths are a multiple: fewer shapes to compile for

    Returns:
        A `keras.utils.PyDataset`, for `fit` and loops of one's own.

    Raises:
        TypeError: For a source of another kind.
        ValueError: For arrays that differ in their number of samples, a source without batches, an
            iterator, which is used up after one round, and an unknown name or no name in
            `batch_size`.

    Example:
        >>> import numpy as np
        >>> a = np.ones((6, 2)), np.ones((6, 1))
        >>> b = [np.ones(3), np.ones(1)], np.ones((2, 1))
        >>> batches = zip_objectives({"a": a, "b": b}, batch_size={"a": 4, "b": 2}, seed=0)
        >>> len(batches)
        2
        >>> x, y = next(iter(batches))
        >>> x["a"].shape, x["b"].shape, y["b"].shape
        ((4, 2), (2, 3), (2, 1))
    """
    if not isinstance(sources, dict) or not sources:
        raise TypeError(
            "zip_objectives takes a dict with a data set for each objective, "
            f'{{"a": (x, y), "b": dataset}}. Received: {type(sources).__name__} {sources!r:.80}.'
        )
    sizes = _sizes(batch_size, list(sources))
    if not is_number(padding):
        raise ValueError(
            f"`padding` is the number that sequences are filled with. {received(padding)}"
        )
    if not is_whole(multiple) or multiple < 1:
        raise ValueError(f"`multiple` is a whole number above 0. {received(multiple)}")
    seed = int(np.random.randint(2**31)) if seed is None else check_seed(seed)
    streams = {}
    for index, (name, source) in enumerate(sources.items()):
        if isinstance(source, dict) or is_array(source):
            source = (source,)
        if isinstance(source, tuple):
            order = np.random.default_rng([seed, index]) if shuffle else None
            source = Arrays(name, source, sizes[name], order, padding, multiple)
        streams[name] = Stream(name, source)
    return ZippedObjectives(streams, _steps(streams, stop))


class ZippedObjectives(keras.utils.PyDataset):
    """Batches of several streams. `len` is the number of batches in an epoch."""

    def __init__(self, streams: dict[str, Stream], steps: int) -> None:
        super().__init__()
        self._streams, self._steps = streams, steps
        self._taken = 0  # batches of this round of so many steps
        self._ahead: list[dict[str, Batch]] = []  # looked at, but not taken
        self._last: dict[str, Batch] = {}
        self._within = self._gave_back = False

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        self.on_epoch_begin()
        for index in range(self._steps):
            yield self[index]
        self.on_epoch_end()

    def __getitem__(self, index: int) -> Any:
        """The next batch, whatever the index; but before an epoch, the one that will come there.

        Keras looks at the first two for their shapes. The second has longer sequences, so that it
        sees which lengths vary.
        """
        self._taken %= self._steps
        if not self._within and not self._taken:
            while len(self._ahead) <= index:
                self._ahead.append(self._read())
            batches = self._ahead[index]
            if index:
                batches = {name: self._streams[name].widened(b) for name, b in batches.items()}
            return _joined(batches)
        self._taken += 1
        self._last = self._ahead.pop(0) if self._ahead else self._read()
        return _joined(self._last)

    def on_epoch_begin(self) -> None:
        """Give back the batch of an epoch that had one: Keras builds a model from such.

        Once a round, since that is also how epochs with `steps_per_epoch=1` look.
        """
        self._within = True
        if self._taken == 1 < self._steps and not self._gave_back:
            self._ahead.insert(0, self._last)
            self._taken, self._gave_back = 0, True
        elif self._taken == self._steps:
            self._gave_back = False

    def on_epoch_end(self) -> None:
        self._within = False

    def _read(self) -> dict[str, Batch]:
        return {name: stream.next() for name, stream in self._streams.items()}


def _joined(batches: dict[str, Batch]) -> Any:
    """Dicts of x, of y and, if any, of sample weights."""
    x = {name: batch[0] for name, batch in batches.items()}
    y = {name: batch[1] for name, batch in batches.items() if batch[1] is not None}
    if not y:
        return (x,)
    weights = {name: batches[name][2] for name in y}
    if all(weight is None for weight in weights.values()):
        return x, y
    ones = {name: np.ones(len(keras.tree.flatten(y[name])[0]), "float32") for name in y}
    return x, y, {name: ones[name] if w is None else w for name, w in weights.items()}


def _steps(streams: dict[str, Stream], stop: int | str) -> int:
    if isinstance(stop, Integral) and stop > 0:
        return int(stop)
    if stop not in ("longest", "shortest"):
        raise ValueError(
            f'stop is "longest", "shortest" or a number of steps above 0. Received: {stop!r}.'
        )
    lengths = [len(stream) for stream in streams.values()]
    return max(lengths) if stop == "longest" else min(lengths)


def _sizes(batch_size: int | dict[str, int], names: list[str]) -> dict[str, int]:
    sizes = batch_size if isinstance(batch_size, dict) else dict.fromkeys(names, batch_size)
    for name, size in sizes.items():
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(
                f"batch_size has a size for {name!r}, which is not a data set.{hint} "
                f"Data sets: {', '.join(map(repr, names))}."
            )
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(
                f"batch_size is a whole number above 0. Received: {size!r} for {name!r}."
            )
    return dict.fromkeys(names, 32) | sizes
