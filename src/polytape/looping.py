"""Gradients for loops of one's own: one forward pass, one gradient per objective."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NoReturn

import keras
import numpy as np
from keras import ops

from polytape.aggregation import Aggregator, check_examples, check_measure, check_private
from polytape.catalogue import resolve
from polytape.catalogue.names import MethodLike
from polytape.combiner import Combiner
from polytape.contract import Method, Seed, Tensor, did_you_mean, has_state, iter_methods, received
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.examples import (
    InLine,
    Per,
    checked_per,
    given_activity,
    losses_of_examples,
)
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.layer_recording import record_layers, unformed
from polytape.differentiation.losses import HALVES, Losses
from polytape.differentiation.measured import Measured
from polytape.differentiation.per_example import PerExample, record_examples
from polytape.differentiation.replicated import handed_out, over_replicas
from polytape.differentiation.scaling import factor_of
from polytape.differentiation.shown import shown
from polytape.differentiation.table import Table, mean_rows, table_of
from polytape.differentiation.variables import Variables, layers_of
from polytape.engines import Measure, Recording, Scalars, check_distribution, engine


class Gradients(Jacobian):
    """One gradient per objective, of one forward pass, and what can be read off them.

    Shared are the variables that two or more objectives reach. `grads["name"]` is the gradient of
    one objective, a list over the variables; under `scale` it is that much too large, while what is
    listed above is not.

    Printed they are a table of losses, norms and cosines; inside a compiled function, where there
    are no values yet, of names and shapes.

    Attributes:
        losses: {name: () float32}
        variables: what the gradients are by, in their order
        outputs: what the objective function returned beside the losses, without gradients
        norms: (T,) gradient norms over the shared variables, loss / parameter
        cosines: (T, T) cosine similarities over the shared variables; 0 beside a zero row
        gramian: (T, T) float32 inner products over the shared variables, loss^2 / parameter^2
        connectivity: which objective reaches which variable

    Example:
        >>> import keras, polytape as pt
        >>> w = keras.Variable([1.0, 2.0])
        >>> pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
        Gradients of 2 objectives by 1 variable, 1 shared
           loss   norm   cos a   cos b
        a     1      2   1.000  -0.894
        b    -2  2.236  -0.894   1.000
    """

    variables: list[Any] = []
    outputs: Any = None

    def __repr__(self) -> str:
        return shown(self, self.variables)

    def combine(
        self,
        method: MethodLike | Combiner,
        private: str | None = None,
        losses: str | Sequence[str] | None = None,
        variables: Any = None,
    ) -> list[Tensor | None]:
        """Update directions, one per variable; None where no objective reaches it.

        Without `losses` and `variables` every objective trains what it reaches: a variable that one
        reaches takes that one's gradient, one that several reach the combined one. So a critic's
        loss trains the generator, too, if it reaches it; `losses` and `variables` say who trains
        what. Several calls on the same gradients are as good as several tapes; each `pt.Combiner`
        serves one of them.

        Args:
            method: a method or its name, if it needs nothing but these gradients; a `pt.Combiner`,
                made once before the loop, for one that keeps a state, draws random numbers or
                counts steps
            private: as of `pt.Combiner`, which brings its own; "own" if left out
            losses: names of the objectives that count, as if there were no others; None: all that
                reach a variable
            variables: those that are trained, in any form that `pt.gradients` takes, and that it
                was given; the update is in their order. None: all

        Returns:
            Update directions, each in the shape and type of its variable; None where no objective
            reaches it.

        Raises:
            ValueError: If the method keeps a state from step to step, draws random numbers or
                counts steps; for a loss or variable that these gradients are not of; and if one of
                the losses reaches none of the variables.

        Example:
            >>> import keras, polytape as pt
            >>> a, b = keras.Variable([1.0], name="a"), keras.Variable([2.0], name="b")
            >>> losses = lambda: {"both": (a[0] * b[0]) ** 2, "size": 3.0 * b[0]}
            >>> grads = pt.gradients(losses, [a, b])
            >>> for_a = grads.combine("sum", losses="both", variables=[a])
            >>> for_b = grads.combine("upgrad", variables=[b])
            >>> len(for_a), len(for_b)
            (1, 1)
        """
        chosen = self._chosen(losses, variables)
        if isinstance(method, Combiner):
            if private is not None:
                raise ValueError(
                    "A Combiner brings its own `private`: pt.Combiner(..., private=...). "
                    f"Received: a Combiner and private={private!r} beside it."
                )
            return method(chosen)
        method, names = resolve(method), chosen.connectivity.names
        private = "own" if private is None else check_private(private)
        check_measure(chosen.measure, method)
        if not chosen.forms_rows:
            check_examples(method)
        aggregator = _aggregator(method, names, chosen.connectivity.paths, private)
        found = aggregator.aggregate_in_loop(chosen, ops.zeros((), "int32"))
        return handed_out(found.directions)

    def _chosen(self, losses: str | Sequence[str] | None, variables: Any) -> Jacobian:
        """These gradients, or those of some objectives by some variables."""
        if losses is None and variables is None:
            return self
        names = self.connectivity.names
        wanted = (losses,) if isinstance(losses, str) else names if losses is None else (*losses,)
        objectives = [_index(name, names) for name in wanted]
        if len(set(objectives)) != len(objectives) or not objectives:
            raise ValueError(
                f"combine(losses=...) names each objective that counts once. Received: {losses!r}. "
                f"Objectives: {', '.join(map(repr, names))}."
            )
        places = {id(variable): index for index, variable in enumerate(self.variables)}
        if variables is None:
            return self.within(objectives, range(len(places)))
        asked = Variables.of("combine(variables=...)", variables)
        for path, variable in zip(asked.paths, asked.variables, strict=True):
            if id(variable) not in places:
                raise ValueError(
                    f"combine(variables=...) got {path!r}, by which no gradients were taken. Give "
                    "pt.gradients the variables of all networks. It was given: "
                    f"{_listed(self.connectivity.paths)}."
                )
        wanted_places = [places[id(variable)] for variable in asked.variables]
        reached: Any = self.connectivity.reach[np.ix_(objectives, wanted_places)].any(axis=1)
        idle = [t for t, reaches in zip(objectives, reached, strict=True) if not reaches]
        if losses is None and len(idle) < len(objectives):  # then those that do reach them
            objectives, idle = [t for t in objectives if t not in idle], []
        if idle:
            others = np.flatnonzero(self.connectivity.reach[idle[0]])
            theirs = _listed([self.connectivity.paths[int(v)] for v in others])
            raise ValueError(
                f"Objective {names[idle[0]]!r} reaches none of the {len(asked.paths)} variables of "
                f"combine(variables=...): {_listed(asked.paths)}. It reaches {theirs}. Leave it "
                "out of `losses`, or mend its path."
            )
        return self.within(objectives, wanted_places)


class MeasuredGradients(Measured, Gradients):
    """`Gradients` of which `norms`, `cosines` and `gramian` are by marked tensors."""


class ExampleGradients(PerExample, Gradients):
    """`Gradients` of single examples: of their rows only the inner products exist."""


def gradients(
    objective_fn: Callable[[], Any],
    variables: Any,
    measure: Measure = "parameters",
    scale: Any = None,
    per: Per | None = None,
    active: Any = None,
    memory: Literal["high", "low"] = "high",
) -> Gradients:
    """The gradient of every objective after one forward pass, on any backend.

    There is one backward pass per objective in every step, whatever the method: `pt.Every` and
    methods of losses save none of them here. `pt.compiled_step` and `pt.Model` know before they
    differentiate.

    Works eagerly, inside `tf.function`, and inside `jax.jit` under a `keras.StatelessScope`. In
    several processes of `torch.distributed` all of them call it, each on its part of the batch:
    losses and gradients are the means of all, and updates are whole, not to be reduced again.
    Updates of other variables made by `objective_fn` (BatchNorm, seeds) happen once.

    Warns under the policy "mixed_float16" if no scale is given.

    Args:
        objective_fn: called once, without arguments; returns {objective name: scalar loss}, or a
            list of losses, named "0", "1", ...; or a tuple of that and anything else, which is then
            `grads.outputs`. Everything that is to be differentiated must happen inside it. For
            methods that read "half_batches" every loss is a pair: that of one half of the batch,
            that of the other
        variables: what to differentiate by: `model.trainable_variables`, a model or layer, a
            PyTorch module; a list of them; a dict {name: one of them}, or pairs of name and
            variable (`module.named_parameters()`). Names make the paths, whose first part is the
            network of `pt.PerNetwork`. A module's frozen parameters get None
        measure: where conflict is measured: at the "parameters", or at the "features", tensors that
            passed a `pt.Features()` layer: then `gramian`, `norms` and `cosines` are over those,
            and a `Combiner` needs but one backward pass through the network. On JAX "features" runs
            the function a second time, abstractly, to find their shapes
        scale: under loss scaling, what scales a loss: `optimizer.scale_loss` of Keras,
            `scaler.scale` of PyTorch; or the number itself. The update comes out scaled, as
            `optimizer.apply` or `scaler.step` expects it, and is NaN where a gradient overflowed,
            so that they skip the step and lower the scale. The losses themselves stay unscaled
            inside `objective_fn`
        per: "example": a loss is a tensor (N,), and each of its entries an objective, named
            "digit[0]", "digit[1]", ...; "step": (N, L), and so is each time step of each example.
            Only their inner products are formed, from what layers take and what comes back to
            their outputs: for methods that read no more, and keep no state. Then `variables` are
            layers or models, and nothing in them may mix examples. Not on several replicas
        active: with `per`, where losses count, (N,) or (N, L) bool, or a dict of these by name:
            false for rows that only fill up a batch. None: all
        memory: "high": all gradients exist until they are combined. "low": by layers with many
            weights they are compared without that, and only the combined one is formed; `variables`
            are then layers or models. Equal but for rounding; losses that take derivatives take
            them by `pt.derivative`. Not on several replicas

    Returns:
        `Gradients`: one gradient per objective, and what can be read off them.

    Raises:
        ValueError: If there are no variables, one does not train, a loss is not a scalar, or an
            objective reaches no variable.
        TypeError: If `objective_fn` does not return losses, or for what is no variable.
        RuntimeError: If processes differ in their objectives or variables, and for what cannot be
            right on the devices that it lies on.

    Example:
        >>> import keras, polytape as pt
        >>> w = keras.Variable([1.0, 2.0])
        >>> grads = pt.gradients(lambda: {"a": w[0] ** 2, "b": -w[0] * w[1]}, [w])
        >>> tuple(grads.gramian.shape)
        (2, 2)
    """
    if not callable(objective_fn):
        raise TypeError(
            "pt.gradients records the forward pass itself: give a function that computes the "
            f'losses and returns {{"name": loss}}. {received(objective_fn)}'
        )
    check_distribution("pt.gradients", variables)
    known = Variables.of("pt.gradients", variables)
    if measure not in ("parameters", "features"):
        raise ValueError(
            '`measure` of pt.gradients is "parameters" or "features". To measure at the outputs, '
            f"pass them through a pt.Features() layer. Received: {measure!r}."
        )
    factor = factor_of("pt.gradients", scale)
    if per is not None or active is not None:
        per = checked_per(per, measure)
        return _of_examples(
            objective_fn,
            known,
            layers_of("pt.gradients with `per`", variables),
            factor,
            per,
            active,
        )
    if memory not in ("high", "low"):
        raise ValueError(f'`memory` of pt.gradients is "high" or "low". Received: {memory!r}.')
    names: list[str] = []

    def forward() -> tuple[Scalars, Any]:
        losses, outputs = Losses.returned(objective_fn())
        names[:] = losses.names
        return losses.groups, outputs

    if memory == "low" and measure == "parameters":
        roots = layers_of('pt.gradients with memory="low"', variables)
        recorded: Recording = record_layers(forward, known.variables, roots)
    else:
        recorded = engine().record(forward, lambda: known.variables, measure)
    recording = over_replicas(recorded, lambda: known.told("pt.gradients", names))
    known.check_same()
    found = collected(recording, names, known, factor)
    found.connectivity.check(known.frozen)
    if measure == "features":
        _ = found.gramian  # so that errors come now
    return found


def _of_examples(
    objective_fn: Callable[[], Any],
    known: Variables,
    roots: Sequence[keras.layers.Layer],
    scale: Tensor | float,
    per: Per,
    active: Any,
) -> Gradients:
    """The gradients of all examples, or all their time steps, of which none is formed."""
    names: list[str] = []

    def forward() -> tuple[Scalars, Any]:
        losses, outputs = losses_of_examples(objective_fn(), per)
        names[:] = losses
        return {"losses": [*losses.values()]}, outputs

    recording = record_examples(forward, known.variables, roots)
    places = [*recording.groups["losses"]]
    recording.check_covered(names, places)
    values = [ops.stop_gradient(recording.scalars[place]) for place in places]
    line = InLine.of(names, [per] * len(names), values, None)
    counted = None if active is None else line.line(given_activity(active, names, values)) > 0
    passes = line.passes(places)
    found = ExampleGradients(line.labels, line.line(values), recording, passes, scale)
    found.counted = counted
    Connectivity(tuple(names), known.paths, line.of_objectives(found.reach)).check(known.frozen)
    found.variables = list(known.variables)
    found.outputs = keras.tree.map_structure(_cut_off, recording.outputs)
    return found


def collected(
    recording: Recording, names: Sequence[str], known: Variables, scale: Tensor | float
) -> Gradients:
    """The gradients of the recorded losses: one for each name, or one of either half batch."""
    values = [ops.stop_gradient(loss) for loss in recording.scalars]
    halves = [recording.groups[half] for half in HALVES if half in recording.groups]
    if halves:
        values = [0.5 * (values[a] + values[b]) for a, b in zip(*halves, strict=True)]
    losses = dict(zip(names, values, strict=True))
    if recording.measure != "parameters":
        if halves:
            raise ValueError(
                'A pair of losses for the halves of a batch needs measure="parameters". Received: '
                f"measure={recording.measure!r}."
            )
        reach = recording.reach(recording.groups["losses"])
        connectivity = Connectivity(tuple(names), known.paths, reach)
        found: Gradients = MeasuredGradients(losses, recording, connectivity, scale)
    else:
        every = range(len(known.paths))

        def table(group: Sequence[int]) -> Table:
            with engine().under_way():
                return table_of(unformed(recording), group, scale, [every] * len(group))

        tables = [table(half) for half in halves]
        rows = mean_rows(*tables) if halves else table(recording.groups["losses"])
        parts = {"half_batches": tables} if halves else None
        connectivity = Connectivity.seen(names, known.paths, rows)
        found = Gradients(losses, rows, connectivity, scale, parts=parts)
    found.variables = list(known.variables)
    found.outputs = keras.tree.map_structure(_cut_off, recording.outputs)
    return found


def _cut_off(item: Any) -> Any:
    return ops.stop_gradient(item) if ops.is_tensor(item) else item


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(
            f"combine(losses=...) names {name!r}, which is not an objective."
            f"{did_you_mean(str(name), names)} Objectives: {', '.join(map(repr, names))}."
        )
    return list(names).index(name)


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:4])}{', ...' * (len(paths) > 4)}" if paths else "nothing"


# ------------------------------------------------------------------ methods on the spot


def _aggregator(
    method: Method, names: tuple[str, ...], paths: tuple[str, ...], private: str
) -> Aggregator:
    """Made ready for these objectives and variables, or a refusal that says why."""
    for part in iter_methods(method):
        if has_state(part, names) and not (part.constant and "epoch_metrics" not in part.evidence):
            _refuse(method, part, "keeps a state from step to step")
        if part.counts:
            _refuse(method, part, "depends on the number of steps made")
    known = _aggregators(names, paths, private)
    for other, aggregator in known:
        if other == method:
            return aggregator

    def draw() -> NoReturn:
        _refuse(method, method, "draws random numbers, other ones in every step")

    aggregator = Aggregator(method, names, paths, _Constant, private, Seed(draw))
    known.append((method, aggregator))
    del known[:-8]
    return aggregator


@lru_cache(maxsize=64)
def _aggregators(
    names: tuple[str, ...], paths: tuple[str, ...], private: str
) -> list[tuple[Method, Aggregator]]:
    """Kept, since the T x T part is compiled. A list, as not every method has a hash."""
    del names, paths, private
    return []


class _Constant:
    """In place of a variable: numbers that nothing changes. Made anew for each graph."""

    def __init__(
        self, *, shape: Any, dtype: str, initializer: Callable[..., Tensor], **_: Any
    ) -> None:
        self._make = lambda: initializer(shape, dtype)

    @property
    def value(self) -> Tensor:
        return self._make()


def _refuse(method: Method, part: Method, why: str) -> NoReturn:
    within = "" if part is method else f" in {type(method).__name__}"
    raise ValueError(
        f"{type(part).__name__}{within} {why}, which the gradients of one step cannot hold. Make a "
        f"pt.Combiner once, before the loop, combiner = pt.Combiner(pt.{type(method).__name__}"
        "(...)), and write grads.combine(combiner) in it."
    )
