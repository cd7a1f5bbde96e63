"""Callbacks of our own: metrics for methods that read some, and what was left out of steps."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import keras

from polytape.contract.types import Anything, Logs
from polytape.training.compilation import Compilation
from polytape.training.diagnosis import Stillness, StopOnNonfinite
from polytape.training.nonfinite_report import bad_data, bad_weights, raise_if_dropped
from polytape.training.reweighting import live_weights, write_weights
from polytape.training.together import callbacks_together

T = TypeVar("T", bound=keras.callbacks.Callback)


@dataclass(frozen=True)
class Count:
    """What went wrong in the training steps of an epoch: how often, and in words."""

    dropped: int
    described: str
    idle: int
    logits_checks: dict[str, str]
    culprits: str = ""


class EpochReport(keras.callbacks.Callback):
    """At the end of an epoch: hands its metrics to methods that heed some, and adds `dropped` to
    the logs once an objective was not finite, and says which; of losses of probabilities that get
    something else it says so once.

    awaited  whether `dropped` is in the logs of the first epoch already, see `await_dropped`
    """

    def __init__(self, awaited: bool = False) -> None:
        super().__init__()
        self._ever = awaited
        self._count: Count | None = None
        self._told: set[str] = set()
        self._culprits: str | None = None

    def on_test_begin(self, logs: Logs | None = None) -> None:
        del logs
        self._count = self._counted()  # validation starts the counts afresh

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.model.plan.aggregator.on_epoch_metrics(logs or {})
        count, self._count = self._count or self._counted(), None
        self._ever = self._ever or count.dropped > 0
        if self._ever and logs is not None:
            logs["dropped"] = count.dropped
        if count.idle:
            warnings.warn(
                f"Epoch {epoch + 1}: {count.idle} times no objective was active: no label in the "
                "batch, or `when` said no. Nothing was updated there.",
                UserWarning,
                stacklevel=2,
            )
        if count.dropped:
            warnings.warn(
                f"Epoch {epoch + 1}: a loss, gradient or weight was not finite and its objective "
                f"was left out of the step: {count.described}.{count.culprits} "
                f"{bad_weights(self.model.compilation)}"
                '`on_nonfinite="raise"` stops at the first one.',
                RuntimeWarning,
                stacklevel=2,
            )
        for name in {*count.logits_checks} - self._told:
            self._told.add(name)
            warnings.warn(count.logits_checks[name], UserWarning, stacklevel=2)

    def _counted(self) -> Count:
        compilation = self.model.compilation
        dropped, found = compilation.plan.dropped, compilation.settings.objectives
        logits_checks = found.logits_checks.items() if found else ()
        described = {name: text for name, each in logits_checks if (text := each.describe())}
        total = dropped.total()
        if total and self._culprits is None:  # looks through the data: once is enough
            self._culprits = bad_data(compilation)
        return Count(
            total, dropped.describe(), dropped.idle_steps(), described, self._culprits or ""
        )


class RaiseOnNonfinite(keras.callbacks.Callback):
    """Raises after the batch in which an objective was left out.

    Apart from `EpochReport`, since a callback with batch hooks makes Keras wait for every step.
    """

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        del batch, logs
        raise_if_dropped(self.model.compilation)


class Reach(keras.callbacks.Callback):
    """Raises after a first batch whose step went past the plan."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        del batch, logs
        self.model.compilation.check_reached()


class SyncWeights(keras.callbacks.Callback):
    """Before each batch hands the values of variables that are weights to the method's state."""

    def __init__(self, compilation: Compilation) -> None:
        super().__init__()
        self._compilation = compilation
        self._known: dict[str, float] = {}

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        del batch, logs
        compilation = self._compilation
        now = live_weights(compilation)
        if now == self._known:
            return
        if compilation.planned:
            write_weights(compilation, now)
            self._known = now
        elif compilation.settings.objectives is not None:  # this step is about to build the model
            compilation.settings.objectives.starts.update(now)


def aligned(history: Anything) -> Anything:
    """What `fit` returns, with `dropped` of 0 for the epochs before the first that logged it.

    While nothing is left out the logs are Keras's own, so that key comes late.
    """
    if isinstance(history, keras.callbacks.History) and "dropped" in history.history:
        found = history.history["dropped"]
        found[:0] = [0] * (len(history.epoch) - len(found))
    return history


def callbacks_of(compilation: Compilation, given: Anything) -> list[keras.callbacks.Callback]:
    """Those that a `fit` needs beside those of the user's."""
    found: list[keras.callbacks.Callback] = [EpochReport(await_dropped(_listed(given)))]
    if compilation.settings.on_nonfinite == "raise":
        found.append(RaiseOnNonfinite())
    if compilation.settings.may_bypass:
        found.append(Reach())
    if not compilation.looked_at_stillness:
        found.append(Stillness(compilation))
    if not any(isinstance(each, StopOnNonfinite) for each in _listed(given)):
        found.append(StopOnNonfinite())
    return [*found, SyncWeights(compilation)] if live_weights(compilation) else found


def await_dropped(given: Sequence[keras.callbacks.Callback]) -> bool:
    """Whether one of these callbacks looks for `dropped` in the first epoch.

    `CSVLogger` takes its columns from there, and leaves out what comes later without a word;
    others may monitor it.
    """
    return any(
        isinstance(each, keras.callbacks.CSVLogger) or getattr(each, "monitor", None) == "dropped"
        for each in given
    )


def _listed(callbacks: Anything) -> list[keras.callbacks.Callback]:
    """Those of a list, of a `CallbackList`, or the one alone."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    if isinstance(callbacks, (list, tuple)):
        return list(callbacks)
    return [callbacks] if callbacks else []


def among(callbacks: Anything, kind: type[T]) -> list[T]:
    """Those of a kind among the callbacks of a `fit`."""
    return [each for each in _listed(callbacks) if isinstance(each, kind)]


def insert(
    callbacks: Anything, own: Sequence[keras.callbacks.Callback], validates: bool
) -> Anything:
    """Our own callbacks and the user's behind them, so that all of those see our logs.

    validates  whether there are validation data

    A `CallbackList` of the user's becomes another one: what it holds and when it calls its
    callbacks is settled when it is made.
    """
    users, behind = callbacks_together(_listed(callbacks), validates)
    together = [*own, *users, *behind]
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        return together
    return keras.callbacks.CallbackList(together, model=callbacks.model, **(callbacks.params or {}))
