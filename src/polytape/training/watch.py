"""Callbacks of our own: metrics for methods that read some, and what was left out of steps."""

import warnings
from typing import Any

import keras


class Watch(keras.callbacks.Callback):
    """At the end of an epoch: hands its metrics to methods that heed some, and adds `dropped` to
    the logs once an objective was not finite, and says which.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ever = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.plan.settlement.heed(logs or {})
        dropped = self.model.plan.dropped
        total = dropped.total()
        self._ever = self._ever or total > 0
        if self._ever and logs is not None:
            logs["dropped"] = total
        if total:
            warnings.warn(
                f"Epoch {epoch + 1}: a loss or gradient was not finite and its objective was left "
                f'out of the step: {dropped.describe()}. `on_nonfinite="raise"` stops at the '
                "first one.",
                RuntimeWarning,
                stacklevel=2,
            )


class Stop(keras.callbacks.Callback):
    """Raises after the batch in which an objective was left out.

    Apart from `Watch`, since a callback with batch hooks makes Keras wait for every step.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        self.model.plan.raise_if_dropped()


def insert(callbacks: Any, *own: keras.callbacks.Callback) -> Any:
    """The user's callbacks behind our own, so that all of them see our logs."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        for callback in own:
            callbacks.append(callback)
        return callbacks
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
    return [*own, *given]
