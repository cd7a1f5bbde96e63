"""A method for loops of one's own: gradients in, one update out, the state held."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.aggregation import (
    Aggregator,
    Owner,
    Saved,
    StateStore,
    check_examples,
    check_measure,
    check_private,
)
from polytape.aggregation.state import constant
from polytape.catalogue import resolve
from polytape.contract import (
    Method,
    Tensor,
    check_objective_names,
    check_seed,
    is_number,
    received,
)
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.replicated import handed_out, joined, told_of
from polytape.differentiation.variables import Variables
from polytape.engines import check_distribution, engine
from polytape.evidence import kinds_of


class _LastUpdate:
    """What a second look at an update needs to know; no list or dict, which Keras would track.

    losses  before it, by name;  active  (T,) bool: which of them took part
    """

    losses: Mapping[str, Tensor] | None = None
    active: Tensor = None


@keras.saving.register_keras_serializable(package="polytape")
class Combiner(keras.layers.Layer):
    """A method with its state, for loops of one's own: gradients in, one update out.

    `combiner(grads)` returns a list of update directions, one per variable in the order given to
    `pt.gradients`, None where no objective reaches it. Its state and step count are non-trainable
    variables of this layer: they are saved with a model that holds it, and inside `jax.jit` they go
    through `keras.StatelessScope` as those of any layer (call `prepare` before tracing).

    A loss, gradient or weight that is not finite leaves its objective out for the step and never
    enters the state; if none is left, the update is zero. Under the `scale` of `pt.gradients` an
    overflow makes the update NaN instead, for the optimizer or scaler to see.

    Args:
        method: a method or its name
        private: what variables reached by one objective take: "own" (its gradient, times the
            weights that a loss-weighting stage gives the objective), "weighted" (times the combined
            weight) or "joint" (they take part in the Gramian as if shared)
        seed: for methods that draw random numbers
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`

    Example:
        >>> import keras, polytape as pt
        >>> w = keras.Variable([1.0, 2.0])
        >>> combiner = pt.Combiner(pt.UPGrad())
        >>> grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
        >>> update = combiner(grads)
        >>> len(update)
        1
    """

    def __init__(
        self, method: str | Method, private: str = "own", seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.method = resolve(method)
        self._kinds = kinds_of(self.method)
        self.private = check_private(private)
        self.seed = check_seed(seed)
        self.steps: Any = None
        self._last = _LastUpdate()
        self._aggregator: Aggregator | None = None
        self._held: StateStore | None = None
        self._pending: Saved | None = None  # loaded before the first call
        self._joined = False  # whether other processes have begun with the same
        # What it is being built for; behind a function, or Keras would take them for its own.
        self._trained: Callable[[], Sequence[Any]] = tuple

    def prepare(self, objectives: Sequence[str], variables: Any) -> None:
        """Create the state now instead of at the first call.

        Args:
            objectives: their names
            variables: as of `pt.gradients`

        Raises:
            ValueError: Without objectives, or for variables that no gradient can be taken by.
        """
        names = check_objective_names(objectives)
        if not names:
            raise ValueError("Combiner.prepare got no objectives: name those of the loop.")
        known = Variables.of("Combiner.prepare", variables)
        self.aggregator_for(names, known)

    def aggregator_for(self, names: Sequence[str], known: Variables) -> Aggregator:
        """The method at work on these objectives and variables, with its state.

        Args:
            names: of the objectives
            known: the variables, with their paths

        Returns:
            The aggregator, the same one at every call.

        Raises:
            ValueError: If the Combiner holds the state of others.
        """
        return self._prepared(
            tuple(names),
            known.paths,
            lambda: [list(variable.shape) for variable in known.variables],
            known.variables,
        )

    def _prepared(
        self,
        names: tuple[str, ...],
        paths: tuple[str, ...],
        shapes: Callable[[], list[list[int]]],
        variables: Sequence[Any],
    ) -> Aggregator:
        if self._aggregator is None:
            self._trained = lambda: variables
            # Keras records it, and PyTorch sees the variables.
            engine().for_all_replicas(lambda: self.build([*names], [*paths], shapes()))
            self._trained = tuple
        known: Any = self._aggregator
        if (known.names, known.paths) != (names, paths):
            raise ValueError(
                f"This Combiner holds the state of objectives {known.names} over "
                f"{len(known.paths)} variables. Received gradients of {tuple(names)} over "
                f"{len(paths)} variables. Use one Combiner for each set of objectives and "
                "variables."
            )
        return known

    def join(self) -> None:
        """Where several processes train: take over the state and the seed that process 0 has.

        The first call does it.
        """
        told = {"at": "the first call of a pt.Combiner", "method": repr(self.method)}
        engine().check_together({**told, **told_of(self.variables)})
        engine().broadcast(self.variables)
        self.seed = engine().gather(self.seed)[0]
        if self._aggregator is not None:
            self._aggregator.reseed(self.seed)
        self._joined = True

    def build(self, objectives: Any, paths: Any, sizes: Any) -> None:
        """Create the state: `prepare` calls it, and Keras when it loads a prepared Combiner.

        Args:
            objectives: their names
            paths: of the variables
            sizes: of the variables: their shapes, or numbers of entries as earlier versions saved
        """
        owner = Owner(tuple(objectives), self.method, self.private)
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.check([owner], clock=True)
        self.steps = self.add_weight(
            name="steps",
            shape=(),
            dtype="int32",
            initializer=constant(0 if pending is None else pending.clock),
            trainable=False,
        )
        self._aggregator = Aggregator(
            self.method,
            tuple(objectives),
            tuple(paths),
            keras.Variable,
            self.private,
            self.seed,
            saved=None if pending is None else pending.arrays(owner),
            shapes=[(size,) if isinstance(size, int) else tuple(size) for size in sizes],
            label=(),
            variables=self._trained(),
        )
        self._state = self._aggregator.state.variables  # by which Keras knows them as of this layer
        self._held = StateStore([(owner, self._aggregator.state)], self.steps)

    def save_own_variables(self, store: Any) -> None:
        if self._held is not None:
            self._held.save(store)
        elif self._pending is not None:
            self._pending.save(store)

    def load_own_variables(self, store: Any) -> None:
        """A state that comes before the first call is kept for it.

        Args:
            store: of Keras, {name: array}
        """
        saved = Saved.read(store)
        if saved is not None and self._held is not None:
            self._held.load(saved)
        elif saved is not None:
            self._pending = saved

    def __call__(self, gradients: Jacobian, traces: Any = None, **more: Any) -> list[Tensor | None]:
        """Update directions, one per variable; the state moves on.

        Args:
            gradients: what `pt.gradients` returned
            traces: (T,) mean squared norms of the gradients of single samples' residuals, zeros in
                steps where they are not measured: for methods that read "sample_traces" (NTK)
            **more: further evidence that gradients do not hold, by its key

        Returns:
            One update direction for each variable, in its shape and type; None where no objective
            reaches it.

        Raises:
            TypeError: For anything but gradients.
            ValueError: For gradients of other objectives or variables, and without `traces` that
                the method needs.
        """
        given = more if traces is None else {"traces": traces, **more}
        if not isinstance(gradients, Jacobian):
            raise TypeError(
                "A Combiner takes what pt.gradients(...) returned. "
                f"Received: an object of type {type(gradients).__name__}."
            )
        kinds = {kind.key: kind for kind in self._kinds}
        for key in given:
            if key not in kinds or not key:
                raise TypeError(
                    f"combiner(grads, {key}=...): {type(self.method).__name__} does not read such "
                    f"evidence. {received(given[key])}"
                )
        for key, kind in kinds.items():
            if given.get(key) is None and (refusal := kind.refusal_in_loop("pt.gradients")):
                raise ValueError(refusal)
        check_distribution("pt.Combiner", self)
        check_measure(gradients.measure, self.method)
        if not gradients.forms_rows:
            check_examples(self.method)
        connectivity = gradients.connectivity
        aggregator = self._prepared(
            connectivity.names, connectivity.paths, lambda: gradients.shapes, gradients.variables
        )
        if engine().processes() > 1 and not self._joined:
            self.join()
        shape = (len(connectivity.names),)
        known = {k: kinds[k].check_given(self.method, value, shape) for k, value in given.items()}
        found = aggregator.aggregate_in_loop(gradients, self.steps.value, known)
        aggregator.state.write(found.state, found.accept)
        self._last.losses = gradients.losses
        self._last.active = found.active
        self.steps.assign(self.steps.value + 1)
        return handed_out(found.directions)

    def look_again(self, losses: Mapping[str, Any]) -> None:
        """Tell what the last update did, for methods that take a second look (FAMO).

        Args:
            losses: {objective name: scalar loss} of the same batch, after the optimizer's step

        Raises:
            RuntimeError: Before the first update.
            ValueError: For losses of other objectives.
        """
        aggregator = self._aggregator
        last = self._last
        if aggregator is None or last.losses is None:
            raise RuntimeError("look_again() follows an update: call the Combiner first.")
        before, active = [*last.losses.values()], last.active
        if not isinstance(losses, Mapping) or set(losses) != set(aggregator.names):
            raise ValueError(
                "look_again() takes the losses after the step of all objectives, by name: "
                f"{', '.join(map(repr, aggregator.names))}. {received(losses)}"
            )
        after = joined([_scalar(name, losses[name]) for name in aggregator.names])
        aggregator.look_after_update(before, after, active, ops.any(active))

    def on_epoch_metrics(self, logs: Mapping[str, float]) -> None:
        """Hand the metrics of an epoch to methods that read some (DTP).

        Args:
            logs: {name of a metric: number}

        Raises:
            RuntimeError: Before there is a state.
            ValueError: If a metric that a method names is not among them.
        """
        if self._aggregator is None:
            raise RuntimeError(
                "on_epoch_metrics() needs the state: call the Combiner or prepare() first."
            )
        self._aggregator.on_epoch_metrics(logs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        method = keras.saving.serialize_keras_object(self.method)
        return {**config, "method": method, "private": self.private, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Combiner":
        method = keras.saving.deserialize_keras_object(config["method"])
        return cls(**{**config, "method": method})


def _scalar(name: str, loss: Any) -> Tensor:
    """The loss after a step, as a number or a scalar tensor."""
    if not is_number(loss) and not ops.is_tensor(loss) and not isinstance(loss, np.ndarray):
        raise TypeError(
            f"The loss of objective {name!r} after the step is no number. {received(loss)}"
        )
    if np.shape(loss) != ():
        raise ValueError(
            f"The loss of objective {name!r} after the step is not a scalar. Received shape: "
            f"{tuple(np.shape(loss))}."
        )
    return loss
