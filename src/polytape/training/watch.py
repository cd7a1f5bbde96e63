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
        if idle := dropped.idle_steps():
            warnings.warn(
                f"Epoch {epoch + 1}: {idle} times no objective was active: no label in the batch, "
                "or `when` said no. Nothing was updated there.",
                UserWarning,
                stacklevel=2,
            )
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


class Follow(keras.callbacks.Callback):
    """Before each batch hands the values of variables that are weights to the method's state."""

    def __init__(self, weights: dict[str, keras.Variable]) -> None:
        super().__init__()
        self._weights = weights
        self._known: dict[str, float] = {}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        now = {name: float(keras.ops.convert_to_numpy(v)) for name, v in self._weights.items()}
        if now != self._known:
            self.model.reweight(now)
            self._known = now


def callbacks_of(plan: Any) -> list[keras.callbacks.Callback]:
    """Those that a `fit` needs."""
    found: list[keras.callbacks.Callback] = [Watch()]
    if plan.on_nonfinite == "raise":
        found.append(Stop())
    given = plan.objectives.given.values() if plan.objectives is not None else ()
    weights = {o.name: o.weight for o in given if isinstance(o.weight, keras.Variable)}
    return [*found, Follow(weights)] if weights else found


def insert(callbacks: Any, *own: keras.callbacks.Callback) -> Any:
    """The user's callbacks behind our own, so that all of them see our logs."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        for callback in own:
            callbacks.append(callback)
        return callbacks
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
    return [*own, *given]
