"""The training side of `polytape.Model`: Keras's `compile` and `fit` on several objectives."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import keras

from polytape.catalogue import resolve
from polytape.catalogue.names import MethodLike
from polytape.combiner import Combiner
from polytape.contract import Method
from polytape.contract.types import Anything, Config, Logs, LossLike, Nest
from polytape.differentiation.connectivity import NoPathError
from polytape.differentiation.replicated import everywhere
from polytape.engines import Measure, check_distribution, engine
from polytape.evidence import kinds_of
from polytape.stages.scopes import PerNetwork
from polytape.training.callbacks import aligned, among, callbacks_of, insert
from polytape.training.communication import check_devices, check_way, scatters
from polytape.training.compilation import NO_DATA, Compilation
from polytape.training.diagnosis import why_unreached
from polytape.training.functional import plain_functional
from polytape.training.gradient_norms import gradient_norms
from polytape.training.loadable import named_functions, warn_of_lost
from polytape.training.losses.evaluation import Batch
from polytape.training.losses.fit_arguments import arguments, check_class_weight, completed, whole
from polytape.training.losses.keras_losses import KerasLosses, Path
from polytape.training.losses.label_metrics import names_of_results, of_labels
from polytape.training.losses.objective import Objective
from polytape.training.losses.objectives import Objectives
from polytape.training.monitor import GradientMonitor
from polytape.training.nonfinite_report import raise_if_dropped
from polytape.training.optimizers.assignment import resolve_optimizer
from polytape.training.overrides import overriding
from polytape.training.phase import Phase, ordered
from polytape.training.plan import StepPlan, is_plain
from polytape.training.reporting.table import routing_table
from polytape.training.reweighting import live_weights, reweight, write_weights
from polytape.training.saving import MethodState, unchanged_on_failure
from polytape.training.settings import settings_of
from polytape.training.step import train_step
from polytape.training.together import begin, quiet, results_of_all

P = ParamSpec("P")
R = TypeVar("R")
OptimizerLike: TypeAlias = str | dict[str, Anything] | keras.optimizers.Optimizer


def _where_it_belongs(method: Callable[P, R]) -> Callable[P, R]:
    """A method of a model, run where the model's variables are made."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with engine().home(args[0]):
            return method(*args, **kwargs)

    return run


class Trainer:
    """The training side of `polytape.Model`, shared by subclassed and functional models."""

    method_state: MethodState
    train_function: Anything  # of Keras, as is
    test_function: Anything

    @_where_it_belongs
    def compile(
        self,
        optimizer: OptimizerLike | Mapping[str, OptimizerLike] = "rmsprop",
        loss: LossLike = None,
        loss_weights: Anything = None,
        metrics: Anything = None,
        weighted_metrics: Anything = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | Literal["auto"] = "auto",
        auto_scale_loss: bool = True,
        *,
        objectives: Sequence[Objective] | None = None,
        combine: MethodLike | Mapping[str, MethodLike] = "sum",
        phases: Sequence[str | Sequence[str] | Phase] | None = None,
        private: Literal["own", "weighted", "joint"] = "own",
        measure: Measure = "parameters",
        on_nonfinite: Literal["drop", "isolate", "skip", "raise"] = "drop",
        seed: int | None = None,
        communication: Literal["auto", "all_reduce", "scatter"] = "auto",
        memory: Literal["auto", "low", "high"] = "auto",
        verbose: int = 1,
    ) -> None:
        """Keras's `compile`, and how the gradients of the losses are combined.

        `add_loss` terms, weight regularisers and what a `compute_loss` of your class adds to the
        losses are added to the combined gradient as they are; in every phase, if there are several.

        Args:
            optimizer: as in `keras.Model.compile`; also {network, layer or path pattern:
                optimizer}, "*" for all others: each variable is updated by one, once in a step: see
                `pt.Optimizers`
            loss: as in `keras.Model.compile`
            loss_weights: as in `keras.Model.compile`
            metrics: as in `keras.Model.compile`
            weighted_metrics: as in `keras.Model.compile`
            run_eagerly: as in `keras.Model.compile`
            steps_per_execution: as in `keras.Model.compile`
            jit_compile: as in `keras.Model.compile`
            auto_scale_loss: as in `keras.Model.compile`
            objectives: instead of `loss`: a list of `pt.Objective`, the rows of the routing table
            combine: a method or its name: "sum" (plain Keras), "upgrad", pt.PCGrad(), a chain; or
                {network: method}. Every loss is an objective, named by its output; its value is
                weighted by `loss_weights` before the method sees it
            phases: objectives one after the other in a step, each phase with a forward pass and an
                update of its own: names, or `pt.Phase`. None: all at the same point
            private: what variables reached by one objective take: "own" (that objective's
                gradient), "weighted" (times its weight) or "joint" (as if shared)
            measure: where conflict is measured: the gradients of the losses by the shared
                "parameters"; by the "features", tensors marked with `pt.Features()`; or by the
                "outputs" of the model. Away from the parameters one backward pass per loss reaches
                the marked tensors only, and one goes through the network
            on_nonfinite: a loss, gradient or weight that is not finite never reaches a variable, a
                slot or the method's state, and the logged losses are means over what was finite.
                "drop": its objective is left out of the step, and counted as `dropped` in the logs
                from the first such epoch on (from the start, if a `CSVLogger` is there, which keeps
                the columns of the first epoch, or a callback monitors it); methods of one backward
                pass ("sum", "dwa"), which cannot tell the gradients apart, skip the step; where
                routes and optimizers keep networks apart, those that it does not concern go on.
                "isolate": it alone is left out for those methods, too, which makes their step
                larger. "skip": the step is skipped as a whole. "raise": as "drop", and
                `FloatingPointError` after the batch. What the optimizer does with a sound gradient
                is Keras's: a learning rate that is not finite spoils what it trains; so does, for
                "sum" on TensorFlow, a gradient above 1.8e19, whose square is not finite. Metrics
                are not judged
            seed: for methods that draw random numbers; None follows `keras.utils.set_random_seed`
                without drawing from it
            communication: on JAX under `keras.distribution.DataParallel`, how the gradients of the
                losses come together for methods that compare them. "all_reduce": whole on every
                device. "scatter": each device adds up and keeps a slice of all of them, and only
                the combined one is put together again, which moves (T + 1) / 2T of the bytes; but a
                step then runs once for each device, and what depends on the whole batch
                (BatchNormalization, functions of the step) sees the part of one device. "auto":
                "scatter" where it is known that nothing does, and that the bytes saved are worth
                it. ValueError where gradients cannot be scattered. See docs/communication.md
            memory: whether methods that compare gradients keep the rows, the gradient of every
                objective by every shared variable, until they are combined. "high": they do, T
                times the memory of the variables. "low": of layers with many weights only what
                comes back to their outputs is kept; inner products are found with the rows of one
                layer at a time, and the combined gradient is formed at once. Equal but for
                rounding; losses that take derivatives take them by `pt.derivative`. "auto": "low"
                where rows would take more than a quarter of the device's memory; and for dense
                layers of many weights and few examples, which is less work. ValueError where a
                method needs rows, or the losses are found in a total of your own. See docs/plan.md
            verbose: 1 prints the routing table where objectives name what they train or networks
                have optimizers of their own: as declared, and again if the first step finds out
                more. 2 prints it for any objectives, and `plan_summary` after the first step; 0
                prints nothing

        Raises:
            RuntimeError: Where a step could not be right on the devices that it would run on.
        """
        check_distribution("compile()", self, fits=True)
        method = combination(combine)
        source = losses_of(loss, loss_weights, objectives, phases, method)
        given = {"loss": loss, "objectives": objectives, "phases": phases}
        given.update(metrics=metrics, weighted_metrics=weighted_metrics)
        metrics, weighted_metrics = (
            of_labels(nest, source.holes, functools.partial(_ignored, self, source))
            for nest in (metrics, weighted_metrics)
        )
        resolved = resolve_optimizer(optimizer)
        check_distribution("compile()", resolved)
        self._compile_loss = self._compile_metrics = None  # Keras keeps those that are not replaced
        super().compile(  # type: ignore[misc]
            optimizer=resolved,
            loss=source.wrapped,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        engine().prepare(self)
        order = ordered(phases, [*source.given]) if isinstance(source, Objectives) else ()
        measured = [given["metrics"], given["weighted_metrics"]]
        settings = settings_of(
            self,
            source=source,
            method=method,
            phases=order,
            private=private,
            measure=measure,
            on_nonfinite=on_nonfinite,
            seed=seed,
            verbose=verbose,
            communication=communication,
            memory=memory,
            metrics=measured,
        )
        check_way(communication, method, settings.measure)
        self.compilation = Compilation(self, settings)
        options: Config = {"private": private, "measure": measure, "on_nonfinite": on_nonfinite}
        options.update(communication=communication, memory=memory)
        # Metrics in an attribute that is a dict Keras takes for the model's own, and logs again.
        combining = {**given, "combine": method, "seed": settings.seed, **options}
        self._combining = MappingProxyType(combining)
        object.__setattr__(self, "loss", source.described)  # not searched for layers, either
        functional = isinstance(self, plain_functional()) and objectives is None
        known = getattr(self, "output", None) if functional else None
        if known is not None:
            self.compilation.check_outputs(known)
        self.compilation.complete(known)
        self.compilation.tell()

    def compute_loss(
        self,
        x: Nest = None,
        y: Nest = None,
        y_pred: Nest = None,
        sample_weight: Nest = None,
        training: bool = True,
    ) -> Anything:
        batch = Batch(x, y, sample_weight).in_tensors()
        of_keras = super().compute_loss  # type: ignore[misc]
        return self._compiled("compute_loss").total_loss(batch, y_pred, training, of_keras)

    def overriding(self, name: str) -> str | None:
        """Who overrides a method that Keras's training calls; None if nobody does.

        Args:
            name: of the method

        Returns:
            The name of the class, or None.
        """
        return overriding(self, name)

    def called(self) -> keras.Model:
        """The model that a step calls. No property, which Keras would save as a part of itself.

        Returns:
            It: this one, or the one that it wraps.
        """
        return self  # type: ignore[return-value]

    @property
    def takes_training(self) -> bool:
        """Whether `call` asks if it trains. If not it runs as in inference, as in Keras."""
        return "training" in inspect.signature(self.call).parameters  # type: ignore[attr-defined]

    @property
    def running_loss(self) -> keras.metrics.Metric:
        """Keras's running mean of the total loss, also where `metrics` is overridden."""
        return super().metrics[0]  # type: ignore[misc]

    def compute_metrics(self, x: Nest, y: Nest, y_pred: Nest, sample_weight: Nest = None) -> Nest:
        sample_weight = completed(sample_weight, y)
        objectives = self.compilation.settings.objectives
        if objectives is not None:
            y, y_pred, sample_weight = objectives.measured(x, y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)  # type: ignore[misc]

    def train_step(self, *args: object) -> Nest:
        step, settings = functools.partial(train_step, self), self.compilation.settings
        same = self.method_state.variables if scatters(self, settings) else None
        return engine().train_step(self, step, *args, same=same)

    def fit(self, *args: object, **kwargs: object) -> keras.callbacks.History:
        compilation = self._compiled("fit")
        check_distribution("fit()", self, fits=True)
        begin(compilation)
        given = quiet(self._given(super().fit, args, kwargs, together=True))  # type: ignore[misc]
        callbacks = given.pop("callbacks", None)
        monitor = self._monitor(compilation, among(callbacks, GradientMonitor))
        validates = given.get("validation_data") is not None or bool(given.get("validation_split"))
        callbacks = insert(callbacks, callbacks_of(compilation, callbacks), validates)
        compilation.data, compilation.batch_size = _data_of(given), given.get("batch_size") or 32
        try:
            return aligned(super().fit(**given, callbacks=callbacks))  # type: ignore[misc]
        except BaseException as error:
            engine().restore_snapshot(compilation.snapshot)
            if isinstance(error, NoPathError):
                raise NoPathError(f"{error}{why_unreached(compilation)}") from error
            raise
        finally:
            compilation.snapshot = None
            compilation.data = NO_DATA
            if monitor is not None:
                monitor.finish()

    def _monitor(
        self, compilation: Compilation, monitors: Sequence[GradientMonitor]
    ) -> GradientMonitor | None:
        """The monitor of a fit, whose records the steps keep from now on; None: nobody's."""
        if len(monitors) > 1:
            raise ValueError(
                f"fit(callbacks=...) has {len(monitors)} GradientMonitors. One records all "
                'objectives and networks, to files of every kind: GradientMonitor("run", csv=True).'
            )
        if not monitors and not compilation.is_monitored:
            return None
        if monitors and monitors[0].serves(compilation.monitor):
            return monitors[0]
        compilation.monitored(None)
        if monitors:
            with engine().home(self):
                monitors[0].make_state(compilation, getattr(self, "steps_per_execution", 1))
        if self.train_function is not None:
            self._make_train_function(force=True)
        return monitors[0] if monitors else None

    def evaluate(self, *args: object, **kwargs: object) -> Nest:
        self._compiled("evaluate")
        given = quiet(self._given(super().evaluate, args, kwargs))  # type: ignore[misc]
        return super().evaluate(**given)  # type: ignore[misc]

    def _symbolic_build(self, *args: Anything, **kwargs: Anything) -> None:
        with engine().alone():  # Keras builds the model on made-up data
            super()._symbolic_build(*args, **kwargs)  # type: ignore[misc]

    def _get_metrics_result_or_logs(self, logs: Logs) -> Nest:
        # Keras calls it where an epoch or an evaluation ends. What it reads in a step, and what
        # batches log, is of this process.
        with results_of_all(self):  # type: ignore[arg-type]
            return super()._get_metrics_result_or_logs(logs)  # type: ignore[misc]

    def test_on_batch(self, *args: object, **kwargs: object) -> Nest:
        self._compiled("test_on_batch")
        return super().test_on_batch(**self._given(super().test_on_batch, args, kwargs))  # type: ignore[misc]

    def _given(
        self, method: Anything, args: Anything, kwargs: Anything, together: bool = False
    ) -> dict[str, Anything]:
        """The arguments of `fit` and its like by name, looked through for missing labels.

        together  whether all replicas come here

        Raises ValueError for weights of samples or classes that fit no target.
        """
        given = arguments(method, args, kwargs)
        x, y, validation = (given.get(name) for name in ("x", "y", "validation_data"))
        check_class_weight(given.get("class_weight"), y)
        if "_use_cached_eval_dataset" in given:  # fit() knows already
            return given
        given["sample_weight"] = completed(given.get("sample_weight"), y)
        if isinstance(validation, (tuple, list)) and len(validation) == 3:
            weights = completed(validation[2], validation[1])
            given["validation_data"] = (*validation[:2], weights)
        labelled = whole(x, y, validation)
        labelled = everywhere(labelled) if together else labelled
        if self.compilation.settings.source.holes.expect(labelled):
            # Made anew, now: a callback may evaluate other data while a fit runs.
            if self.train_function is not None:
                self._make_train_function(force=True)
            if self.test_function is not None:
                self._make_test_function(force=True)
        return given

    def __call__(self, *args: object, **kwargs: object) -> Nest:
        outputs = super().__call__(*args, **kwargs)  # type: ignore[misc]
        compilation: Compilation | None = getattr(self, "compilation", None)
        if compilation is not None and compilation.settings.objectives is not None:
            compilation.complete(outputs)  # Keras builds the optimizer next
        return outputs

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` returns, in its order; known after the first batch."""
        return names_of_results(self)

    @property
    def columns(self) -> Mapping[str, keras.layers.Layer]:
        """The networks of the routing table: the model's layers by name.

        Not a dict, in which Keras would save the layers a second time, under other names.
        """
        layers = [layer for layer in self.layers if layer is not self.method_state]  # type: ignore[attr-defined]
        return MappingProxyType({layer.name: layer for layer in layers})

    def plan_summary(self) -> str:
        """What a training step costs as it is planned, and in the ways it was compared with.

        The work is that of one forward and one backward pass in which layers' matrices meet what
        comes in and back; products among activations, as in attention, are not in it. Memory is
        that of gradients, beside what one backward pass takes. Both are known after the first step;
        `compile(verbose=2)` prints them then.

        Returns:
            The summary, as text of several lines.

        Raises:
            RuntimeError: Before `compile`, or before the model has its variables.

        Example:
            >>> import keras, numpy as np, polytape as pt
            >>> inputs = keras.Input((4,))
            >>> trunk = keras.layers.Dense(64)(inputs)
            >>> heads = {name: keras.layers.Dense(1, name=name)(trunk) for name in ("a", "b")}
            >>> model = pt.Model(inputs, heads)
            >>> model.compile("sgd", "mse", combine="upgrad")
            >>> y = np.ones((8, 1))
            >>> logs = model.train_on_batch(np.ones((8, 4)), {"a": y, "b": y})
            >>> print(model.plan_summary().splitlines()[0])
            UPGrad of 2 objectives, 450 weights
        """
        return self._compiled("plan_summary").summary()

    def routing_table(self, x: Nest = None, y: Nest = None, sample_weight: Nest = None) -> str:
        """Objectives in rows, networks in columns: who trains what, by which optimizer.

        Before the first step it shows what is declared, then also what is reached.

        Args:
            x: one batch, as for `fit`: then each cell also has the norm of the loss's gradient by
                that network, of those that a route discards, too. Nothing is updated
            y: of the same batch
            sample_weight: of the same batch

        Returns:
            The table, as text of several lines.

        Raises:
            ValueError: Unless compiled with objectives and built.
        """
        compilation = self._compiled("routing_table")
        if compilation.settings.objectives is None or not compilation.planned:
            raise ValueError(
                "The routing table is of objectives and of variables that exist: compile with "
                "objectives=[...] and call the model once, or give its networks an Input."
            )
        norms = None if x is None else gradient_norms(compilation, Batch(x, y, sample_weight))
        optimizer = self.optimizer  # type: ignore[attr-defined]
        return routing_table(
            compilation.settings, compilation.plan, optimizer, compilation.reaches, norms
        )

    def __setattr__(self, name: str, value: Anything) -> None:
        # Where Keras's loop on JAX leaves the arrays of every step. An attribute like any other is
        # searched for variables and layers, which takes longer than a step of a small network.
        if name == "_jax_state":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def make_train_function(self, force: bool = False) -> Anything:
        check_distribution("fit()", self, fits=True)
        check_devices(self.compilation.settings)
        self.compilation.tell()
        self.compilation.snapshot = engine().snapshot(self)
        self._make_train_function(force)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Anything:
        self._make_test_function(force)
        return self.test_function

    def _make_train_function(self, force: bool) -> None:
        """Keras's, for as many replicas as the model has."""
        before = self.train_function
        super().make_train_function(force)  # type: ignore[misc]
        if self.train_function is not before:
            self.train_function = engine().spread_batches(self, self.train_function)

    def _make_test_function(self, force: bool) -> None:
        before = self.test_function
        super().make_test_function(force)  # type: ignore[misc]
        if self.test_function is not before:
            self.test_function = engine().spread_batches(self, self.test_function)

    def train_on_batch(self, *args: object, **kwargs: object) -> Nest:
        compilation = self._compiled("train_on_batch")
        if compilation.planned and (weights := live_weights(compilation)):
            write_weights(compilation, weights)
        given = self._given(super().train_on_batch, args, kwargs)  # type: ignore[misc]
        compilation.data = _data_of(given)
        try:
            logs = super().train_on_batch(**given)  # type: ignore[misc]
            compilation.check_reached()
            raise_if_dropped(compilation)
        finally:
            compilation.data = NO_DATA
        return logs

    @property
    def plan(self) -> StepPlan:
        """What a training step does. RuntimeError until objectives and variables are known."""
        return self._compiled("training").plan

    def _compiled(self, asked_by: str) -> Compilation:
        """What was compiled, or `RuntimeError` before `compile`."""
        compilation: Compilation | None = getattr(self, "compilation", None)
        if compilation is None:
            raise RuntimeError(
                f"{asked_by}() comes after compile(): model.compile(optimizer=..., loss=..., "
                "combine=...). A model loaded with compile=False is compiled anew."
            )
        return compilation

    def reweight(self, weights: dict[str, float]) -> None:
        """Set weights of objectives, or of the `Reweight` stages of `combine`, from now on.

        Call it between batches or from a callback, as `self.model.reweight({"a": 0.5})`. Raises
        `ValueError` for an objective that does not exist, a weight that follows a schedule or a
        variable, and where no objectives and no `Reweight` stage hold weights.

        Args:
            weights: {objective: finite number}

        Raises:
            ValueError: For an objective that does not exist, a weight that follows a schedule or a
                variable, and where no objectives and no `Reweight` stage hold weights.
        """
        reweight(self._compiled("reweight"), weights)

    def save(self, filepath: Anything, *args: object, **kwargs: object) -> None:
        """As in Keras, as a `.keras` file.

        Args:
            filepath: ends with .keras
            *args: as in Keras
            **kwargs: as in Keras

        Raises:
            ValueError: For a legacy .h5 file.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "The legacy .h5 format holds neither `combine` nor `objectives` nor the state of a "
                f"method. Received: {str(filepath)!r}. Save to a .keras file to go on training, "
                "or the plain model to serve it: model.to_keras().save(path)."
            )
        super().save(filepath, *args, **kwargs)  # type: ignore[misc]

    def load_weights(self, filepath: Anything, *args: object, **kwargs: object) -> None:
        """As in Keras, with the state of the method; what fails to load changes nothing.

        Args:
            filepath: of a file that `save` or `save_weights` wrote
            *args: as in Keras
            **kwargs: as in Keras
        """
        with unchanged_on_failure(self):
            super().load_weights(filepath, *args, **kwargs)  # type: ignore[misc]

    def get_compile_config(self) -> Config:
        config = super().get_compile_config()  # type: ignore[misc]
        if not config:
            return config
        functions = named_functions("the loss", self._combining["loss"])
        for objective in self._combining["objectives"] or ():
            functions[f"the loss of objective {objective.name!r}"] = objective.loss
            functions[f"`when` of objective {objective.name!r}"] = objective.when
        warn_of_lost(functions)
        given = {
            key: keras.saving.serialize_keras_object(item) for key, item in self._combining.items()
        }
        given["seed"] = self.compilation.settings.seed  # which may have come from process 0
        return {**config, **given}

    def compile_from_config(self, config: Config) -> None:
        given = {**keras.saving.deserialize_keras_object(config), "verbose": 0}
        if engine().scatter_refusal() is not None:  # a file of other devices goes on here, too
            given.pop("communication", None)
        self.compile(**given)
        if self.built and self.optimizer is not None:  # type: ignore[attr-defined]
            self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]


def _data_of(given: Mapping[str, Anything]) -> Batch:
    return Batch(*(given.get(name) for name in ("x", "y", "sample_weight")))


def combination(combine: Anything) -> Method:
    """The method that `compile(combine=...)` means: one, or one per network."""
    if isinstance(combine, Mapping):
        return PerNetwork({network: resolve(method) for network, method in combine.items()})
    if isinstance(combine, Combiner):
        raise TypeError(
            "A Combiner is for loops of your own; in fit the model holds the method's state: "
            f"compile(combine=pt.{type(combine.method).__name__}(...))."
        )
    return resolve(combine)


def losses_of(
    loss: LossLike, loss_weights: Anything, objectives: Anything, phases: Anything, method: Method
) -> KerasLosses | Objectives:
    """Where the losses come from: `loss=` or `objectives=`, which exclude each other."""
    kinds = [kind for kind in kinds_of(method) if kind.records]
    if objectives is None:
        if phases is not None:
            raise ValueError("compile(phases=...) orders objectives: give compile(objectives=...).")
        return KerasLosses(loss, loss_weights, kinds, is_plain(method, False))
    if loss is not None or loss_weights is not None:
        raise ValueError(
            "compile(objectives=...) says what the losses are and what they weigh: leave out "
            '`loss` and `loss_weights`, or write them as pt.Objective("depth", "mse", weight=0.5).'
        )
    return Objectives(objectives, kinds, is_plain(method, True))


def _ignored(model: keras.Model, source: KerasLosses | Objectives, path: Path) -> int | None:
    """The class that the loss of an output ignores, if it does."""
    if isinstance(source, Objectives):
        return source.ignored(path)
    return source.ignored(path, tuple(getattr(model, "output_names", None) or ()))
