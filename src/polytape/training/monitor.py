"""A callback that keeps what the gradients of a training looked like."""

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from keras import ops

from polytape.contract import Method, is_whole, received
from polytape.contract.types import Anything, Logs
from polytape.diagnostics.environment import environment
from polytape.diagnostics.event_files import EventFile, check_tensorboard
from polytape.diagnostics.monitor_records import (
    EpochRecord,
    Header,
    MonitorRun,
    MonitorWriter,
    StepRecord,
    epoch_means,
    file_in,
    set_aside,
)
from polytape.diagnostics.monitor_table import MonitorTable
from polytape.engines import engine
from polytape.stages.chain import split
from polytape.training.compilation import Compilation
from polytape.training.monitor_figures import step_records
from polytape.training.monitor_state import MonitorState
from polytape.training.observation import monitor_state
from polytape.training.optimizers.assignment import as_optimizers, unscaled
from polytape.training.plan import StepPlan

PATIENCE = 5.0  # seconds after which records are fetched, be there room for more


class GradientMonitor(keras.callbacks.Callback):
    """Records losses, gradients, their conflict and the weights of a `pt.Model` while it trains.

    One training step out of `every` leaves a record for each phase: of each objective the loss, the
    norm of its gradient, its weight and its share of the update; the inner products of all
    gradients, and so their cosines and the rate of pairs in conflict; and the same for each
    network. See `polytape.diagnostics.monitor_records.Figures` for what each number is.

    The training stays what it is, to the last bit. The numbers are taken inside the compiled step
    and stay on the device, where there is room for a few records, until these are fetched: when it
    is full, after five seconds, at the end of an epoch, and where `fit` ends, also by an error or
    Ctrl-C. A training that is killed loses what was not fetched yet, and nothing of the file.

    A method that needs every gradient (UPGrad, PCGrad, ...) has what is measured in any case. One
    that makes do with a single backward pass (the sum, DWA; also `pt.Every` between its steps,
    methods that take turns, and `measure="features"`) takes one pass for each objective more in
    steps that leave a record.

    Epoch means are in what `fit` returns, `history.history["norm/a"]`, `"cosine/a/b"`,
    `"weight/a"`, `"share/a"`, `"trunk/norm/a"`; the conflict rate is in the logs, too, as
    `conflict_rate`. With a folder there is `monitor.jsonl`, which
    `polytape.diagnostics.monitor_records.MonitorRun.load` reads without any framework. A fit that
    goes on (`initial_epoch`, `BackupAndRestore`) with the same folder goes on in the same file; one
    that begins at step 0 renames what is there, to `monitor.1.jsonl`.

    Args:
        folder: for files, made if missing; None: the attribute `records` keeps all in memory
        every: a step out of so many leaves a record
        ring: room for so many records on the device; more are fetched less often, and more are lost
            if the training is killed
        networks: whether each network is recorded apart. Of models without
            `pt.Model(networks=...)` these are the top-level layers
        csv: whether there is `monitor.csv`, too, with a column for each number
        tensorboard: whether there are files for TensorBoard, too: curves, and the cosines of each
            epoch as a picture

    Raises:
        ImportError: If files for TensorBoard are asked for without the package `tensorboard`.
        TypeError: For a folder that is no path.
        ValueError: For an argument that makes no sense, or a folder with the records of other
            objectives.

    Example:
        >>> import keras, numpy as np, polytape as pt
        >>> x = keras.Input((3,))
        >>> hidden = keras.layers.Dense(4, name="trunk")(x)
        >>> heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in ("a", "b")}
        >>> model = pt.Model(x, heads)
        >>> model.compile("sgd", loss={"a": "mse", "b": "mae"}, combine="upgrad")
        >>> monitor = pt.callbacks.GradientMonitor(every=2)
        >>> data = np.ones((8, 3)), {"a": np.ones((8, 1)), "b": np.zeros((8, 1))}
        >>> history = model.fit(*data, batch_size=2, verbose=0, callbacks=[monitor])
        >>> [record.step for record in monitor.records]
        [0, 2]
        >>> sorted(monitor.records[0].networks)
        ['a', 'b', 'trunk']
        >>> sorted(key for key in history.history if key.startswith("norm"))
        ['norm/a', 'norm/b']
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        every: int = 10,
        *,
        ring: int = 16,
        networks: bool = True,
        csv: bool = False,
        tensorboard: bool = False,
    ) -> None:
        super().__init__()
        if folder is not None and not isinstance(folder, (str, os.PathLike)):
            raise TypeError(
                'The first argument of GradientMonitor is a folder: GradientMonitor("run", '
                f"every=10), or GradientMonitor(every=10) without one. {received(folder)}"
            )
        for name, value in (("every", every), ("ring", ring)):
            if not is_whole(value) or value < 1:
                raise ValueError(
                    f"GradientMonitor({name}=...) is a whole number, at least one. "
                    f"{received(value)}"
                )
        if folder is None and (csv or tensorboard):
            raise ValueError(
                'CSV and TensorBoard files need a folder: GradientMonitor("run", csv=True).'
            )
        if tensorboard:
            check_tensorboard()
        self.folder = None if folder is None else Path(folder)
        self.every, self.ring, self.networks = int(every), int(ring), bool(networks)
        self.records: list[StepRecord] = []
        self._csv, self._tensorboard = csv, tensorboard
        self._writer: MonitorWriter | None = None
        self._table: MonitorTable | None = None
        self._events: EventFile | None = None
        self._state: MonitorState | None = None
        self._epoch = 0
        self._known = 0  # records that were fetched
        self._base = 0  # the step at the last fetch
        self._first = 0  # its batch
        self._last = 0.0  # when that was
        self._started, self._offset = 0.0, 0.0
        self._times: list[tuple[int, float]] = []  # when which step was begun
        self._at_once = 1
        self._of_epoch: list[StepRecord] = []
        self._begun, self._room = False, self.ring
        self._columns: list[str] = []  # in what `fit` returns

    # ------------------------------------------------------------------ for `fit`

    def make_state(self, compilation: Compilation, at_once: int) -> None:
        """Have the steps of a compilation keep records, from the next train function on.

        Args:
            compilation: of the model
            at_once: how many steps it makes in one execution
        """
        capacity = max(self.ring, -(-at_once // self.every))

        def make(plan: StepPlan) -> MonitorState:
            return monitor_state(compilation.settings, plan, self.every, capacity, self.networks)

        compilation.monitored(make)

    def serves(self, state: MonitorState | None) -> bool:
        """Whether a state is the one that this monitor reads.

        Args:
            state: of a compilation, or None

        Returns:
            Whether it is.
        """
        return state is not None and state is self._state

    def finish(self) -> None:
        """Fetch what is there, also where a fit has failed, and close the files."""
        if self._begun and self._state is not None and engine().readable(self._state.count):
            self._fetch()
        self._begun = False
        for file in (self._writer, self._events):
            if file is not None:
                file.close()
        self._writer = self._events = self._table = None

    # ------------------------------------------------------------------ hooks

    def set_model(self, model: keras.Model) -> None:
        if not isinstance(getattr(model, "compilation", None), Compilation):
            raise TypeError(
                "GradientMonitor is a callback of a pt.Model, which knows the gradients of its "
                f"objectives. Received: a {type(model).__name__}. Make it one: pt.Model(model)."
            )
        super().set_model(model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        del logs
        self._at_once = max(1, int(getattr(self.model, "steps_per_execution", 1)))
        self._begun, self._started = False, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        del logs
        self._epoch, self._first = epoch, 0
        if not self._begun:  # whatever restores a checkpoint has done so by now
            self._begin()

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        # A hook at the end of batches would make Keras wait for every step. In this one, no access
        # to `self.model`: on JAX that would bring all variables back.
        del logs
        if not self._begun and batch > 0:
            self._begin()
        now = time.monotonic()
        step = self._base + batch - self._first
        pending = self._due_before(step) - self._due_before(self._base)
        coming = self._due_before(step + self._at_once) - self._due_before(step)
        if pending and (pending + coming > self._room or now - self._last > PATIENCE):
            _ = self.model  # brings them back
            self._fetch()
            self._first = batch
            step = self._base
        if coming:
            self._times.append((step, now))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if not self._begun:
            self._begin()
        self._fetch()
        records, self._of_epoch = self._of_epoch, []
        means = epoch_means(records)
        plan = self.model.plan
        if any(len(phase.names) > 1 for phase in plan.phases):
            means.setdefault("conflict_rate", math.nan)
            if logs is not None:
                logs["conflict_rate"] = means["conflict_rate"]
        self._to_history(means)
        numbers = {name: float(value) for name, value in (logs or {}).items() if _is_number(value)}
        if self._writer is not None:
            self._writer.write([EpochRecord(epoch, numbers)])
        if self._events is not None:
            self._events.scalars(self._base, {f"epoch/{name}": v for name, v in numbers.items()})
            self._draw(self._events, records)
            self._events.flush()
        if self.folder is not None:
            self.records = records

    def on_train_end(self, logs: Logs | None = None) -> None:
        del logs
        self.finish()

    # ------------------------------------------------------------------ beginning

    def _begin(self) -> None:
        """Find out where this fit begins, and open the files.

        A model that its first step builds has nothing to be asked before that.
        """
        compilation: Compilation = self.model.compilation
        state = compilation.monitor
        if state is None:
            if compilation.is_monitored:
                return
            raise RuntimeError(
                "GradientMonitor is a callback of `fit` of a pt.Model, which must know of it when "
                "it begins: model.fit(..., callbacks=[monitor])."
            )
        made = state.made()
        if state is self._state:
            self._known, self._base = made, int(state.step.numpy())
        else:
            self._state, self._known, self._base = state, 0, 0
            if made == 0:  # else the steps of this fit are its first ones, and made the model
                self._base = int(ops.convert_to_numpy(ops.add(compilation.plan.clock.read(), 0)))
                state.start(self._base)
        self._begun, self._times, self._columns = True, [], []
        self._room, self._offset = state.capacity, 0.0
        self._last = self._started
        if self.folder is not None and engine().process_number() == 0:
            self._open(self.folder, self._header(compilation, self._epoch))

    def _open(self, folder: Path, header: Header) -> None:
        """Open the files: to go on in those that are there, or to begin new ones."""
        path = file_in(folder)
        if path.exists() and header.step == 0:
            set_aside(path)
        elif path.exists():
            before = MonitorRun.load(path)
            _check_same(path, before.header, header)
            made = [record.seconds for record in before.steps if record.step < header.step]
            self._offset = max(made, default=0.0)
            header = dataclasses.replace(header, seconds=self._offset)
        self._writer = MonitorWriter(path)
        self._writer.write([header])
        if self._csv:
            self._table = MonitorTable(folder / "monitor.csv", header.step)
        if self._tensorboard:
            self._events = EventFile(folder, header.step)

    def _header(self, compilation: Compilation, epoch: int) -> Header:
        plan = compilation.plan
        steps = [phase.steps for phase in plan.phases]
        phases = [
            {"objectives": list(phase.names), "steps": count}
            for phase, count in zip(plan.phases, steps, strict=True)
        ]
        networks = dict.fromkeys(owner for owner in plan.index.owners if owner)
        return Header(
            plan.names,
            tuple(networks) if self.networks else (),
            _described(compilation.settings.method),
            _optimizer(self.model.optimizer),
            self.every,
            environment(),
            tuple(phases),
            self._base,
            epoch,
        )

    # ------------------------------------------------------------------ fetching

    def _due_before(self, step: int) -> int:
        """How many steps leave a record before this one."""
        return -(-step // self.every)

    def _fetch(self) -> None:
        """Take the records off the device, and hand them on."""
        if (state := self._state) is None:
            return
        made = state.made()
        arrays = [each.numpy() for each in (state.steps, *state.records)]
        steps, tables = arrays[0], arrays[1:]
        kept = [n % state.capacity for n in range(max(self._known, made - state.capacity), made)]
        numbers = [int(steps[place]) for place in kept]
        seconds = [self._offset + self._time_of(step) - self._started for step in numbers]
        by_phase = [
            step_records(layout, table[kept], numbers, self._epoch, phase, seconds)
            for phase, (layout, table) in enumerate(zip(state.layouts, tables, strict=True))
        ]
        found = [record for records in zip(*by_phase, strict=True) for record in records]
        self._known, self._base = made, int(state.step.numpy())
        self._last, self._times = time.monotonic(), []
        self._hand_on(found)

    def _time_of(self, step: int) -> float:
        before = [moment for first, moment in self._times if first <= step]
        return before[-1] if before else self._last

    def _hand_on(self, records: list[StepRecord]) -> None:
        self._of_epoch += records
        if self.folder is None:
            self.records += records
        if self._writer is not None:
            self._writer.write(records)
        if self._table is not None:
            self._table.write(records)
        if self._events is not None:
            for record in records:
                self._events.scalars(record.step, record.scalars)
            self._events.flush()

    def _to_history(self, means: Mapping[str, float]) -> None:
        """Into what `fit` returns, and not into the logs, which are printed after every epoch."""
        history = getattr(self.model, "history", None)
        if not isinstance(history, keras.callbacks.History):
            return
        made = len(history.epoch)  # that of this epoch comes after this callback
        self._columns = [*dict.fromkeys([*self._columns, *means])]
        for name in self._columns:
            if name != "conflict_rate":  # that comes by the logs
                column = history.history.setdefault(name, [math.nan] * made)
                column.append(means.get(name, math.nan))

    def _draw(self, events: EventFile, records: list[StepRecord]) -> None:
        """The mean cosines of an epoch, as pictures."""
        for phase, planned in enumerate(self.model.plan.phases):
            names, several = planned.names, len(self.model.plan.phases) > 1
            means = epoch_means([record for record in records if record.phase == phase])
            places = ["", *dict.fromkeys(f"{n}/" for r in records for n in r.networks)]
            for place in places:
                keys = [[f"{place}cosine/{a}/{b}" for b in names] for a in names]
                square = np.array([[means.get(key, math.nan) for key in row] for row in keys])
                square = np.where(np.isnan(square), square.T, square)  # each pair is told once
                if np.isnan(square).all():
                    continue
                np.fill_diagonal(square, 1.0)
                tag = f"phase {phase}/{place}cosines" if several else f"{place}cosines"
                events.heat_map(self._base, tag, names, square.tolist())


def _is_number(value: Anything) -> bool:
    return isinstance(value, (int, float, np.number))


def _check_same(path: Path, before: Header, now: Header) -> None:
    """Raise unless the records of a fit that goes on are of the same things."""
    for what in ("objectives", "phases"):
        one, other = getattr(before, what), getattr(now, what)
        if one != other:
            raise ValueError(
                f"{path} holds the records of a training with {what} {list(one)}, and this one, "
                f"which goes on at step {now.step}, has {list(other)}. Give it a folder of its own."
            )


def _described(method: Method) -> dict[str, Anything]:
    settings = {}
    for field in dataclasses.fields(method):
        settings[field.name] = _plain(getattr(method, field.name))
    needs = "losses" if split(method)[1] is None else "gradients"
    return {"name": type(method).__name__, "needs": needs, "settings": settings}


def _plain(value: Anything) -> Anything:
    if isinstance(value, Method):
        return _described(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def _optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Anything]:
    optimizers = as_optimizers(optimizer)
    if optimizers is None:
        inner = unscaled(optimizer)
        return {"name": type(inner).__name__, "settings": _plain(inner.get_config())}
    return {name: _optimizer(optimizers[name]) for name in optimizers}
