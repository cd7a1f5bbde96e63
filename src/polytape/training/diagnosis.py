"""What `fit` says of gradients without being asked: missing, still, or not finite for long."""

import warnings
import zlib
from collections.abc import Sequence

import keras
import numpy as np

from polytape.contract.types import Logs
from polytape.explanation.finding import Finding
from polytape.training.compilation import Compilation
from polytape.training.explained import explain_model
from polytape.training.losses.fit_data import first_batch

STEPS = 10  # after which a variable that has not moved is looked at
PATIENCE = 100  # steps in a row in which an objective was not finite
_ASK = "pt.explain(model, x, y) on a batch says why."
_STILL = ("saturated", "masked", "at a minimum", "cancelled", "underflow", "cut", "not connected")


class Stillness(keras.callbacks.Callback):
    """After the first steps: says once which variables have not moved, and why."""

    def __init__(self, compilation: Compilation) -> None:
        super().__init__()
        self._compilation = compilation
        self._before: dict[int, int] = {}
        self._steps = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        del logs
        variables = self._compilation.model.trainable_variables
        self._before = {id(variable): _print_of(variable) for variable in variables}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        del epoch, logs
        self._steps += self.params.get("steps") or 0
        compilation = self._compilation
        if self._steps < STEPS or compilation.looked_at_stillness:
            return
        compilation.looked_at_stillness = True
        known = [v for v in compilation.plan.index.variables if id(v) in self._before]
        still = [v.path for v in known if _print_of(v) == self._before[id(v)]]
        if still:
            self._tell(still)

    def _tell(self, still: Sequence[str]) -> None:
        listed = ", ".join(still[:3]) + f" and {len(still) - 3} more" * (len(still) > 3)
        for finding in _findings(self._compilation):
            concerned = [path for path in finding.variables if path in still]
            if finding.kind in _STILL and concerned:
                who = f"Objective {finding.objective!r}: " if finding.objective else ""
                warnings.warn(
                    f"In the first {self._steps} steps {listed} did not move. {who}{finding} "
                    "print(pt.explain(model, x, y)) shows it all.",
                    UserWarning,
                    stacklevel=2,
                )
                return


def _print_of(variable: keras.Variable) -> int:
    """A number that changes with the value."""
    values = np.ascontiguousarray(variable)
    return zlib.crc32(values.reshape(-1).view("uint8").data)  # without a copy, which may be large


class StopOnNonfinite(keras.callbacks.Callback):
    """Stops `fit` once an objective has not been finite for many steps in a row.

    One that is not finite now and then is left out of those steps and counted; one that never is
    any more is no longer trained, which nobody notices. `fit` has this callback by itself; give it
    one of your own for another patience. It looks at the end of every epoch.

    Args:
        patience: steps in a row that an objective may be left out; None: any number

    Example:
        >>> import polytape as pt
        >>> pt.callbacks.StopOnNonfinite(patience=1000).patience
        1000
    """

    def __init__(self, patience: int | None = PATIENCE) -> None:
        super().__init__()
        if patience is not None and (not isinstance(patience, int) or patience < 1):
            raise ValueError(
                f"`patience` is a number of steps from 1, or None for any. Received: {patience!r}."
            )
        self.patience = patience

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Raise `FloatingPointError` if an objective was left out for too long.

        Args:
            epoch: from 0
            logs: of the epoch

        Raises:
            FloatingPointError: With the first operation that is not finite, and its layer.
        """
        del epoch, logs
        compilation: Compilation | None = getattr(self.model, "compilation", None)
        if self.patience is None or compilation is None:
            return
        lost = {n: c for n, c in compilation.plan.dropped.in_a_row().items() if c >= self.patience}
        if not lost:
            return
        named = ", ".join(f"{name!r} ({count} steps)" for name, count in lost.items())
        why = next(
            (
                f" {finding}"
                for finding in _findings(compilation)
                if finding.kind == "not finite" and finding.objective in lost
            ),
            f" {_ASK}",
        )
        raise FloatingPointError(
            f"Not finite for {self.patience} steps in a row and more, and so not trained: {named}."
            f"{why} To go on all the same give fit "
            "callbacks=[pt.callbacks.StopOnNonfinite(patience=None)]."
        )


def _findings(compilation: Compilation) -> list[Finding]:
    """What is wrong on a batch of the `fit` that runs."""
    batch = first_batch(compilation.data, compilation.batch_size)
    if batch is None:
        return []
    try:
        return [*explain_model(compilation.model, *batch).findings]
    except Exception as error:  # whoever trains asked for no explanation: it must cost him nothing
        why = (str(error).strip() or "no message").splitlines()[0]
        text = f"No explanation could be had ({type(error).__name__}: {why})"
        return [Finding("", "", "unknown", text, _ASK)]


def why_unreached(compilation: Compilation) -> str:
    """Why a gradient that should be there is missing, as a sentence with a space before."""
    if not compilation.planned:
        return ""
    for finding in _findings(compilation):
        if finding.kind in ("cut", "not connected", "outside the record"):
            who = " x ".join(repr(n) for n in (finding.objective, finding.network) if n)
            return f" {who + ': ' if who else ''}{finding}"
    return f" {_ASK}"
