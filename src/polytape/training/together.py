"""Processes that train together: how they come to the same start, and stay together.

On PyTorch each process of a `torch.distributed` group has a model of its own, and Keras's loop of
its own around it. Between the steps, whose sums keep them equal, these things could still part.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
from keras import ops

from polytape.contract.types import Anything, Logs
from polytape.differentiation.replicated import told_of
from polytape.engines import engine
from polytape.training.compilation import Compilation

# Callbacks of Keras's that write files: several processes would write the same ones.
WRITERS = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


def several() -> bool:
    """Whether several processes train together."""
    return engine().processes() > 1


def begin(compilation: Compilation) -> None:
    """Before anything else in `fit`: all processes have come, for the same training."""
    compilation.joined = False
    if several():
        told = {"at": "the beginning of fit()", "method": repr(compilation.settings.method)}
        engine().check_together(told)


def join(compilation: Compilation) -> None:
    """Before a first step: all processes take over everything that process 0 begins with.

    Seeds of dropout stay: each process drops units of its own samples.
    """
    model, plan, settings = compilation.model, compilation.plan, compilation.settings
    if not model.optimizer.built:
        model.optimizer.build(plan.index.variables)
    everything = {id(v): v for v in [*model.variables, *model.optimizer.variables]}
    everything.update((id(v), v) for v in model.method_state.variables)
    variables = [v for v in everything.values() if "seed_generator_state" not in v.path]
    engine().check_together(
        {
            "at": "the first step of a training",
            "objectives": plan.names,
            "method": repr(settings.method),
            "optimizer": type(model.optimizer).__name__,
            "on_nonfinite": settings.on_nonfinite,
            **told_of(variables),
        }
    )
    engine().broadcast(variables)
    compilation.reseed(engine().gather(settings.seed)[0])


def at_step(compilation: Compilation, number: int) -> dict[str, Anything]:
    """What all processes have to say alike before, and after, the forward pass of a phase."""
    return {
        "at": f"a step of training, phase {number + 1}",
        "objectives": compilation.plan.phases[number].names,
        "monitored": compilation.monitor is not None,
    }


@contextlib.contextmanager
def results_of_all(model: keras.Model) -> Iterator[None]:
    """Metrics hold what those of all processes come to, for a moment."""
    variables = model.metrics_variables if several() else []
    summed = [v for v in variables if v.aggregation in ("sum", "mean")]
    if several():
        shapes = [(v.aggregation, tuple(v.shape)) for v in summed]
        engine().check_together({"at": "the results of an epoch or of evaluate()", "of": shapes})
    own = [ops.copy(variable.value) for variable in summed]
    for variable, value in zip(summed, engine().all_reduce(own) if own else [], strict=True):
        mean = variable.aggregation == "mean"
        variable.assign(value / engine().processes() if mean else value)
    try:
        yield
    finally:
        for variable, value in zip(summed, own, strict=True):
            variable.assign(value)


def quiet(given: dict[str, Anything]) -> dict[str, Anything]:
    """The arguments of `fit` or `evaluate`; only process 0 shows how far it is."""
    return {**given, "verbose": 0} if engine().process_number() else given


def callbacks_together(
    given: Sequence[keras.callbacks.Callback], validates: bool
) -> tuple[list[keras.callbacks.Callback], list[keras.callbacks.Callback]]:
    """Those of the user's that are to run in this process, and what comes behind them."""
    if not several():
        return list(given), []
    first = engine().process_number() == 0
    kept = [each if first or not isinstance(each, WRITERS) else Reads(each) for each in given]
    return [Together(validates), *kept], [EndTogether()]


class Reads(keras.callbacks.Callback):
    """A callback that writes files, in a process that must not: it only reads what there is."""

    def __init__(self, writer: keras.callbacks.Callback) -> None:
        super().__init__()
        self._writer = writer

    def set_params(self, params: Anything) -> None:
        super().set_params(params)
        self._writer.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._writer.set_model(model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if isinstance(self._writer, keras.callbacks.BackupAndRestore):
            self._writer.on_train_begin(logs)


class Together(keras.callbacks.Callback):
    """Finds out whether all processes begin the same epochs, and evens out their statistics."""

    def __init__(self, validates: bool) -> None:
        super().__init__()
        self._validates, self._epoch, self._even = validates, "", True

    def on_train_begin(self, logs: Logs | None = None) -> None:
        del logs
        known = {"at": "the first epoch of fit()", "epochs": self.params.get("epochs")}
        engine().check_together({**known, "validation data": self._validates})
        steps = engine().gather(self.params.get("steps"))
        if len({count for count in steps if count is not None}) > 1:
            listed = ", ".join(
                f"process {number} has {'an unknown number' if count is None else count}"
                for number, count in enumerate(steps)
            )
            raise ValueError(
                f"fit(): the processes have different numbers of batches in an epoch: {listed}. "
                "Every step adds up over all of them, so each needs as many. Give parts of the "
                "data of one size, as torch.utils.data.DistributedSampler does, or "
                f"steps_per_epoch={min(count for count in steps if count is not None)}."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        del logs
        engine().check_together({"at": f"the beginning of epoch {epoch + 1}"})
        self._even = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        del logs
        self._even_out()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        del epoch, logs
        self._even_out()

    def _even_out(self) -> None:
        """Give all processes the mean of the statistics (BatchNorm) that each kept of its part."""
        if self._even:
            return
        self._even = True
        statistics = [v for v in self.model.non_trainable_variables if "float" in str(v.dtype)]
        apart = [statistics[place] for place in engine().differing(statistics)]
        sums = engine().all_reduce([variable.value for variable in apart])
        for variable, value in zip(apart, sums, strict=True):
            variable.assign(value / engine().processes())


class EndTogether(keras.callbacks.Callback):
    """Behind all callbacks of the user's: what they did in one process only.

    If they stop the training of one, that of all ends. If they change what is trained, or how, all
    raise.
    """

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        del logs
        model = self.model
        state = model.method_state.variables
        variables = [*model.trainable_variables, *model.optimizer.variables, *state]
        differing = engine().differing(variables)
        if differing:
            named = ", ".join(repr(variables[place].path) for place in differing[:3])
            raise RuntimeError(
                f"fit(): after epoch {epoch + 1} the processes no longer hold the same: {named}"
                f"{', ...' * (len(differing) > 3)}. Steps keep them equal to the last bit, so "
                "something else changed them in one process only. Likely causes: a callback, such "
                "as ReduceLROnPlateau or one that assigns weights, given to one process only; or "
                "one that decides by the number of the process or by what it alone has seen, as "
                "batch logs. Give all processes the same callbacks."
            )
        if any(engine().gather(bool(model.stop_training))):
            model.stop_training = True
