"""A compiled training step for loops of one's own: losses, optimizer and method in one call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from polytape.aggregation import Aggregator, check_measure
from polytape.catalogue.names import MethodLike
from polytape.combiner import Combiner
from polytape.contract import Tensor, received
from polytape.differentiation.layer_recording import record_layers
from polytape.differentiation.losses import Losses
from polytape.differentiation.replicated import joined, over_replicas, told_of
from polytape.differentiation.variables import Variables, layers_of
from polytape.engines import (
    Forward,
    Measure,
    Recording,
    Scalars,
    check_distribution,
    engine,
    framework_of,
)
from polytape.evidence import kinds_of
from polytape.methods.sum import Sum
from polytape.stages.chain import split
from polytape.training.backward import backward
from polytape.training.memory import check_memory
from polytape.training.networks import bare
from polytape.training.nonfinite import decide_update
from polytape.training.optimizers.assignment import (
    as_optimizers,
    assign_owners,
    resolve_optimizer,
)
from polytape.training.plan import PhasePlan
from polytape.training.recording import PhaseRecording
from polytape.training.routing.failure_groups import one_group
from polytape.training.routing.routes import Routes, warn_untrained
from polytape.training.step import apply_update, look_after_update
from polytape.training.variables import VariableIndex


class CompiledStep:
    """What `pt.compiled_step` returns: call it with a batch, and everything moves on by one step.

    optimizer  the optimizer, or `pt.Optimizers`;  combiner  the `pt.Combiner`: both can be saved
    variables  what is trained, once the first step has been made
    """

    on_nonfinite = "drop"

    def __init__(
        self,
        losses: Callable[..., Any],
        optimizer: Any,
        combiner: MethodLike | Combiner,
        networks: Any,
        measure: Measure = "parameters",
        run_eagerly: bool = False,
        memory: Literal["high", "low"] = "high",
    ) -> None:
        """As `pt.compiled_step`."""
        if not callable(losses):
            raise TypeError(
                "pt.compiled_step takes a function of the batch that returns the losses: "
                f'def losses(x, y): ... return {{"a": loss_a}}. {received(losses)}'
            )
        check_distribution("pt.compiled_step", networks)
        self.losses, self.networks, self.run_eagerly = losses, bare(networks), run_eagerly
        self.optimizer = resolve_optimizer(optimizer, "compiled_step(optimizer=...)")
        self.combiner = combiner if isinstance(combiner, Combiner) else Combiner(combiner)
        for kind in kinds_of(self.combiner.method):
            if refusal := kind.refusal_in_loop("pt.compiled_step"):
                raise ValueError(refusal)
        self.measure = check_measure(measure, self.combiner.method)
        check_memory(memory, self.combiner.method, self.measure, apart=False)
        self._roots: list[keras.layers.Layer] | None = None  # whose layers' calls are noted
        if (
            memory == "low"
            and self.measure == "parameters"
            and split(self.combiner.method)[1] is not None
        ):
            self._roots = layers_of('pt.compiled_step with memory="low"', self.networks)
        self.variables: list[Any] = []
        self._phase: PhasePlan | None = None
        self._reach: Any = None  # (T, V) bool: who trains what, once that is known
        self._others: list[Any] = []  # what the losses change beside what is trained
        self._run: Callable[..., Any] = self._step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One step on a batch, whose arguments go to `losses`; what it returned comes back."""
        if self._phase is None:
            own = [self.networks, self.optimizer, self.combiner]
            check_distribution("pt.compiled_step", own)
        if engine().on_replicas(self._step) is not None:
            return self._spread(args, kwargs)
        args, kwargs = (_tensors(batch) for batch in (args, kwargs))
        if self._phase is None:
            self._prepare(args, kwargs)
        self._check_trainable()
        # Replicas meet in the middle of a step, which no function of its own can hold.
        run = self._run if engine().replica_count() == 1 else self._step
        return run(*args, **kwargs)

    def _spread(self, args: Any, kwargs: Any) -> Any:
        """One step of all replicas, each on its part of the batch."""
        look, step = engine().on_replicas(self._look), engine().on_replicas(self._step)
        assert look and step  # noqa: PT018, S101  (that was asked before)
        if self._phase is None:
            look(*args, **kwargs)
            self._run = step if self.run_eagerly else engine().compiled_step(step, self.variables)
        self._check_trainable()
        returned = self._run(*args, **kwargs)
        if isinstance(returned, tuple):
            return engine().of_first_replica(returned[0]), returned[1]
        return engine().of_first_replica(returned)

    def _look(self, *args: Any, **kwargs: Any) -> None:
        self._prepare(*(_tensors(batch) for batch in (args, kwargs)))

    def _check_trainable(self) -> None:
        still = [variable.path for variable in self.variables if not variable.trainable]
        if still:
            raise ValueError(
                f"{still[0]!r} was trainable when this step was made and is frozen now. Make a new "
                "pt.compiled_step, with the same optimizer and Combiner if their variables are the "
                "same."
            )

    # ------------------------------------------------------------------ before the first step

    def _prepare(self, args: Any, kwargs: Any) -> None:
        """Learn names and variables from the losses, and make all state there will be."""
        found: list[Losses] = []

        def look() -> None:
            found[:] = [Losses.returned(self.losses(*args, **kwargs))[0]]

        with _Survey() as survey:
            engine().survey(look)
        names = found[0].names
        known = Variables.of("pt.compiled_step", self.networks)
        for path, variable in zip(known.paths, known.variables, strict=True):
            if not isinstance(variable, keras.Variable):
                raise TypeError(
                    f"pt.compiled_step trains Keras variables with Keras optimizers, and {path!r} "
                    f"is none ({type(variable).__name__}). For a PyTorch module take pt.gradients, "
                    "`p.grad = u` for each parameter and update, and optimizer.step(): see "
                    "examples/torch_loop.py."
                )
        self.variables = known.variables
        if (optimizers := as_optimizers(self.optimizer)) is not None:
            assign_owners(optimizers, VariableIndex(self._named_networks(), self.variables))
        if not self.optimizer.built:
            engine().for_all_replicas(lambda: self.optimizer.build(self.variables))
        aggregator = self.combiner.aggregator_for(names, known)
        self._phase = self._planned(aggregator)
        own = [*self.variables, *self.optimizer.variables, *self.combiner.variables]
        self._others = [v for v in survey.variables if not any(v is other for other in own)]
        self._join(own)
        if not self.run_eagerly and engine().replica_count() == 1:
            self._run = engine().compiled_step(self._step, [*own, *self._others])

    def _join(self, own: Sequence[Any]) -> None:
        """Where several processes train: take over all that process 0 begins with.

        own  what is trained, and what optimizer and Combiner keep
        """
        if engine().processes() == 1:
            return
        others = [v for v in self._others if "seed_generator_state" not in v.path]
        variables = [*own, *others]
        told = {"at": "the first step of pt.compiled_step", **told_of(variables)}
        engine().check_together({**told, "optimizer": type(self.optimizer).__name__})
        engine().broadcast(variables)
        self.combiner.join()

    def _planned(self, aggregator: Aggregator) -> PhasePlan:
        count, width = len(aggregator.names), len(self.variables)
        return PhasePlan(
            aggregator.names,
            tuple(range(count)),
            self.variables,
            aggregator,
            Routes.anywhere(count, width),
            one_group(count, width),
            plain=aggregator.method == Sum(),
            rescales=isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer),
        )

    def _named_networks(self) -> Mapping[str, Any]:
        if not isinstance(self.networks, Mapping):
            raise TypeError(
                "Several optimizers are given by the names of their networks, so networks need "
                'names: pt.compiled_step(losses, {"encoder": "adam", "*": "sgd"}, method, '
                f'{{"encoder": encoder, "decoder": decoder}}). {received(self.networks)}'
            )
        return self.networks

    # ------------------------------------------------------------------ the step

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        phase, optimizer = self._phase, self.optimizer
        assert phase is not None  # noqa: S101  (made before the first step)
        aggregator = phase.aggregator
        halves = bool(aggregator.recording)
        shape: list[bool] = []  # whether there are outputs

        def forward() -> tuple[Scalars, Any]:
            returned = self.losses(*args, **kwargs)
            losses, outputs = Losses.returned(returned)
            self._check(losses, outputs)
            shape[:] = [isinstance(returned, tuple) and returned[1] is outputs]
            return _scalars(losses, halves), outputs

        recorded = over_replicas(
            self._recorded(forward),
            lambda: {"at": "a step of pt.compiled_step", "objectives": aggregator.names},
        )
        scale = ops.cast(optimizer.scale_loss(ops.ones(())), "float32")
        count = ops.add(self.combiner.steps.value, 0)
        recording = PhaseRecording(recorded, phase, count, scale, reach=self._reach)
        result = backward(recording)
        if self._reach is None:
            self._reach = recording.trained(result.reach)
            trained: Any = self._reach.any(axis=0)
            pairs = zip(self.variables, trained, strict=True)
            warn_untrained([variable for variable, some in pairs if not some])
        decision = decide_update(recording, result, as_a_whole=False)
        aggregator.state.write(result.state, decision.accept)
        self.combiner.steps.assign_add(1)
        apply_update(optimizer, self.variables, recording, decision, result.reach)
        if aggregator.looks_after_update:
            after = engine().without_side_effects(
                lambda: joined(_losses_of(forward())), self._others
            )
            look_after_update(recording, decision, after)
        losses = dict(zip(aggregator.names, map(ops.stop_gradient, recording.losses), strict=True))
        if not shape[0]:
            return losses
        return losses, keras.tree.map_structure(_cut_off, recorded.outputs)

    def _recorded(self, forward: Forward) -> Recording:
        if self._roots is not None:
            return record_layers(forward, self.variables, self._roots)
        return engine().record(forward, lambda: self.variables, self.measure)

    def _check(self, losses: Losses, outputs: Any) -> None:
        names = self._phase.names if self._phase else ()
        if tuple(losses.names) != names:
            raise ValueError(
                f"The losses are {', '.join(map(repr, losses.names))} now, and were "
                f"{', '.join(map(repr, names))} in the first step. The method's state has a row "
                "for each: make a pt.compiled_step for each set of losses."
            )
        for leaf in keras.tree.flatten(outputs):
            if leaf is not None and not ops.is_tensor(leaf):
                raise TypeError(
                    "What a compiled step returns beside the losses are tensors, in any nest. "
                    f"{received(leaf)}"
                )


def compiled_step(
    losses: Callable[..., Any],
    optimizer: Any,
    combiner: MethodLike | Combiner,
    networks: Any,
    measure: Measure = "parameters",
    run_eagerly: bool = False,
    memory: Literal["high", "low"] = "high",
) -> CompiledStep:
    """A training step for a loop of one's own, compiled, the same on every backend.

    TensorFlow runs it in a `tf.function`, JAX in a `jax.jit` that takes over all state, donated, as
    it does in `fit`; PyTorch runs it as it is. It is traced once for each shape of the batch.
    Whatever variables the losses read or change (BatchNorm, seeds, metrics) are found by running
    them once more before the first step, without effect. Methods cost what they cost in `fit`: one
    backward pass for methods of losses and in the steps between those of `pt.Every`. The second
    look of `pt.FAMO` is taken. Losses are scaled as the optimizer wishes, and it learns of an
    overflow. What is not finite never reaches a variable: its objective is left out of the step, or
    the step skipped, as with `on_nonfinite="drop"` of `pt.Model`.

    Terms that layers add (`add_loss`, regularisers) count only if `losses` returns them.

    Args:
        losses: a function of the batch: `losses(x, y)` makes the forward pass, with
            `training=True`, and returns {objective name: scalar loss}, a list of losses, or
            (losses, outputs). Written for a compiler: no NumPy, `keras.ops.cond` for `if`
        optimizer: a Keras optimizer or its name, with or without a `LossScaleOptimizer`; or
            {network: optimizer}, "*" for all others
        combiner: a `pt.Combiner`, a method or its name
        networks: what is trained, in any form that `pt.gradients` takes: a model, a list of models,
            a dict {name: model}, or variables
        measure: as of `pt.gradients`; also "parameters" or "features"
        run_eagerly: whether not to compile, for debugging
        memory: as of `pt.gradients`

    Returns:
        Step(*batch) -> what `losses` returns: {name: () tensor}, with outputs ({name: () tensor},
        outputs). A batch is arrays, numbers or nests of them, float64 as `keras.config.floatx()`.

    Raises:
        TypeError: For arguments of a kind that does not fit, before anything is updated.
        ValueError: For values that do not fit, before anything is updated.

    Example:
        >>> import keras, numpy as np, polytape as pt
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> def losses(x, y):
        ...     error = (model(x, training=True) - y) ** 2
        ...     return {"left": keras.ops.mean(error[:, 0]), "right": keras.ops.mean(error[:, 1])}
        >>> step = pt.compiled_step(losses, "sgd", "upgrad", model)
        >>> logs = step(np.ones((4, 3)), np.zeros((4, 2)))
        >>> sorted(logs)
        ['left', 'right']
    """
    return CompiledStep(losses, optimizer, combiner, networks, measure, run_eagerly, memory)


class _Survey(keras.StatelessScope):
    """Notes which variables are read or changed, and lets none of them change."""

    def __init__(self) -> None:
        super().__init__()
        self._met: dict[int, Any] = {}

    @property
    def variables(self) -> list[Any]:
        return list(self._met.values())

    def get_current_value(self, variable: Any) -> Any:
        self._met.setdefault(id(variable), variable)
        return super().get_current_value(variable)

    def add_update(self, update: tuple[Any, Tensor]) -> None:
        self._met.setdefault(id(update[0]), update[0])
        super().add_update(update)


def _scalars(losses: Losses, halves: bool) -> Scalars:
    """T losses, their total, and behind them the losses of either half if they are wanted."""
    pairs = "losses" not in losses.groups
    if halves and not pairs:
        raise ValueError(
            "This method compares the gradients of two half batches: let the losses return a pair "
            'for each objective, {"name": (loss of one half, loss of the other)}.'
        )
    whole = losses.whole
    total = sum(whole[1:], start=whole[0])
    return {"losses": whole, "extra": [], "total": [total], **(losses.groups if halves else {})}


def _losses_of(passed: tuple[Any, Any]) -> list[Tensor]:
    return list(passed[0]["losses"])


def _cut_off(item: Any) -> Any:
    return ops.stop_gradient(item) if ops.is_tensor(item) else item


def _tensors(batch: Any) -> Any:
    """Arrays and numbers as tensors, so that a new number is no new function."""
    return keras.tree.map_structure(_tensor, batch)


def _tensor(item: Any) -> Any:
    if item is None or ops.is_tensor(item):
        return item
    if isinstance(item, (bool, str)) or not isinstance(item, (int, float, np.ndarray, np.generic)):
        if framework_of(item) is None:
            raise TypeError(
                "A compiled step takes arrays and numbers. Anything else is told by the function "
                f"of the losses itself: functools.partial(losses, training=True). {received(item)}"
            )
        item = np.asarray(item)  # a tensor of another framework, from its data loader
    array = np.asarray(item)
    single = array.dtype == np.float64
    return ops.convert_to_tensor(array, dtype=keras.config.floatx() if single else None)
