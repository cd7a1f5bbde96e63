"""One problem, several methods, several seeds: train them all alike and record what happened."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

import polytape
from polytape.callbacks import GradientMonitor
from polytape.contract import Method
from polytape.diagnostics.environment import environment
from polytape.diagnostics.monitor_records import StepRecord
from polytape.diagnostics.records import Comparison, Run, Watch, opposition
from polytape.differentiation.connectivity import Blocks
from polytape.interrupts import Interrupts
from polytape.problems.batches import Batches, mean_loss, rows
from polytape.problems.problem import Data, Problem, count
from polytape.problems.registry import fingerprint

PROBE = 256  # examples on which the conflict is measured
LARGEST = 512  # batch in validation
RAREST = 10  # steps at least between two records of weights: they take time, and steps are timed


def compare(
    problem: Problem,
    methods: dict[str, Method],
    *,
    seeds: int = 2,
    epochs: int = 8,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    watch: Watch | None = None,
    save: Callable[[Comparison], None] | None = None,
    source: str = "",
) -> Comparison:
    """Train the problem's model under each method and record losses, metrics, conflict and time.

    methods        {name in the record: method}
    seeds          how many; seed s gives every method the same initial weights and the same order
                   of the examples. All methods are run under one seed before the next one
    batch_size     of the problem, if None; likewise `learning_rate`, of Adam
    save           called with the record so far: before the first run and after every one
    source         where the problem is from, as `problems.load` takes it
    returns        the record. A run that raises or diverges is recorded as such, and the others go
                   on; after Ctrl-C the record holds the finished runs and `interrupted` is True

    >>> import polytape as pt
    >>> from polytape.problems import load
    >>> found = compare(load("toy"), {"Sum": pt.Sum()}, seeds=1, epochs=2)
    >>> found.runs[0].status, len(found.runs[0].cosines)
    ('finished', 2)
    """
    found = Comparison(
        problem=problem.name,
        description=problem.description,
        objectives=problem.objectives,
        headline=dict(problem.headline),
        methods=tuple(methods),
        seeds=tuple(range(seeds)),
        epochs=epochs,
        batch_size=batch_size or problem.batch_size,
        learning_rate=learning_rate or problem.learning_rate,
        environment=environment(),
        settings={name: serialised(method) for name, method in methods.items()},
        source=source,
        fingerprint=fingerprint(source),
    )
    return carry_out(found, problem, methods, watch=watch, save=save)


def carry_out(
    found: Comparison,
    problem: Problem,
    methods: dict[str, Method],
    *,
    watch: Watch | None = None,
    save: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Make the runs of a plan that are missing or have failed, and put them into it.

    found          a plan with the runs made so far; changed, and returned
    problem        that it was planned for, `methods` likewise
    watch, save    as of `compare`

    >>> import polytape as pt
    >>> from polytape.problems import load
    >>> found = compare(load("toy"), {"Sum": pt.Sum()}, seeds=1, epochs=2)
    >>> first = found.runs.pop()
    >>> carry_out(found, load("toy"), {"Sum": pt.Sum()}).runs[0].history == first.history
    True
    """
    watch = watch or Watch()
    save = save or (lambda _: None)
    pending = found.pending
    found.interrupted = False
    if not pending:
        return found
    data = problem.load_data()
    save(found)  # the plan: a kill in the first run finds it
    with Interrupts() as interrupts:
        training = _Training(problem, data, found, watch, interrupts)
        try:
            for name, seed in pending:
                watch.started(name, seed, len(pending))
                run = training.run(name, methods[name], seed)
                with interrupts.put_off():
                    found.add(run)
                    save(found)
                    watch.ended(run)
        except KeyboardInterrupt:
            found.interrupted = bool(found.missing)
    return found


def serialised(method: Method) -> dict[str, Any]:
    """A method as plain JSON, from which Keras makes it again; lists in the place of tuples."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(method)))


class _Training:
    """The conditions that all methods share."""

    def __init__(
        self,
        problem: Problem,
        data: Data,
        plan: Comparison,
        watch: Watch,
        interrupts: Interrupts,
    ) -> None:
        self.problem = problem
        self.data = data
        self.plan = plan
        self.watch = watch
        self.interrupts = interrupts

    def run(self, name: str, method: Method, seed: int) -> Run:
        begun = time.perf_counter()
        record = _Record(self)
        try:
            self._fit(method, seed, record)
            status, reason = self._judge(record.history)
        except Exception as error:  # one method's failure must not cost the others' results
            first = (str(error).strip() or "no message").splitlines()[0]
            status, reason = "failed", f"{type(error).__name__}: {first}"
        return Run(
            method=name,
            seed=seed,
            status=status,
            reason=reason,
            history=record.history,
            cosines=record.cosines,
            norms=record.norms,
            layers=record.layers,
            recorded=record.recorded,
            weights=record.weights,
            shares=record.shares,
            step_seconds=record.step_seconds,
            seconds=time.perf_counter() - begun,
        )

    def _fit(self, method: Method, seed: int, record: "_Record") -> None:
        x_train, y_train, x_val, y_val = self.data
        tested = count(x_val)
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        inputs, outputs = self.problem.build()
        self.problem.check_names("build() outputs", outputs)
        outputs = {objective: outputs[objective] for objective in self.problem.objectives}
        model = polytape.Model(inputs, outputs)
        model.compile(
            optimizer=keras.optimizers.Adam(self.plan.learning_rate),
            loss=dict(self.problem.losses),
            metrics={key: list(value) for key, value in self.problem.metrics.items()} or None,
            combine=method,
        )
        keras.utils.set_random_seed(seed)  # building may draw differently often per method
        batches = Batches(x_train, y_train, self.plan.batch_size, seed)
        monitor = GradientMonitor(every=max(len(batches), RAREST), networks=False)
        model.fit(
            batches,
            epochs=self.plan.epochs,
            validation_data=(x_val, y_val),
            validation_batch_size=-(-tested // -(-tested // LARGEST)),  # of one size, if possible
            callbacks=[record, monitor],
            verbose=0,
        )
        record.take(monitor.records)

    def _judge(self, history: dict[str, list[float]]) -> tuple[Any, str]:
        for objective in self.problem.objectives:
            for key in (self.problem.headline_key(objective), f"val_{objective}_loss"):
                if key not in history:
                    keys = ", ".join(sorted(key for key in history if key.startswith("val_")))
                    raise ValueError(f"The history has no {key!r}; it has {keys}.")
                if not np.all(np.isfinite(history[key])):
                    epoch = 1 + int(np.argmin(np.isfinite(history[key])))
                    return "diverged", f"{key} is not finite from epoch {epoch} on"
        return "finished", ""


class _Record(keras.callbacks.Callback):
    """Times the steps, keeps the history, and measures the conflict at the end of each epoch."""

    def __init__(self, training: _Training) -> None:
        super().__init__()
        self.training = training
        self.history: dict[str, list[float]] = {}
        self.cosines: list[list[list[float]]] = []
        self.norms: list[list[float]] = []
        self.layers: dict[str, list[float]] = {}
        self.recorded: list[int] = []
        self.weights: dict[str, list[float]] = {}
        self.shares: dict[str, list[float]] = {}
        self.step_seconds: list[float] = []
        self._begun = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        self._begun = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        del logs
        # Validation begins where training ends; Keras has fetched the losses by then.
        self.step_seconds.append((time.perf_counter() - self._begun) / self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        numbers = {key: float(value) for key, value in (logs or {}).items()}
        for key, value in numbers.items():
            self.history.setdefault(key, []).append(value)
        found = polytape.gradients(self._losses, self.model.trainable_variables)
        layers = _layers(found.connectivity.paths)
        gramians = ops.convert_to_numpy(found.gramians(layers))
        norms, cosines = _norms_and_cosines(gramians.sum(axis=0))
        self.norms.append(norms.tolist())
        self.cosines.append(cosines.tolist())
        for index in sorted({layers.of[variable] for variable in found.connectivity.shared}):
            opposed = opposition(_norms_and_cosines(gramians[index])[1].tolist())
            self.layers.setdefault(layers.names[index], []).append(opposed)
        self.training.watch.epoch(epoch + 1, numbers)
        self.training.interrupts.check()

    def take(self, records: Sequence[StepRecord]) -> None:
        """Weights and shares of the training steps that left a record, where there are such."""
        self.recorded = [record.step for record in records]
        for objective in self.training.problem.objectives:
            if all(objective in record.weights for record in records):
                self.weights[objective] = [record.weights[objective] for record in records]
            if all(objective in record.share for record in records):
                self.shares[objective] = [record.share[objective] for record in records]

    def _losses(self) -> dict[str, Any]:
        x, y = self.training.data[:2]
        outputs = self.model(rows(x, slice(PROBE)), training=False)
        return {
            objective: mean_loss(loss, y[objective][:PROBE], outputs[objective])
            for objective, loss in self.training.problem.losses.items()
        }


def _layers(paths: Sequence[str]) -> Blocks:
    """Variables by the layer that holds them, which is what their paths begin with."""
    owners = [path.rpartition("/")[0] or path for path in paths]
    names = tuple(dict.fromkeys(owners))
    return Blocks(tuple(names.index(owner) for owner in owners), names)


def _norms_and_cosines(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) and (T, T) of a Gramian (T, T); a gradient that is zero has cosines of zero."""
    norms = np.sqrt(np.diagonal(gramian))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return norms, gramian * inverse[:, None] * inverse[None, :]
