"""The objectives of one `compile(objectives=...)`, evaluated: values, activity, running means."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from polytape.contract import Tensor, did_you_mean
from polytape.differentiation.losses import check_scalar
from polytape.training.objectives.class_weights import of_classes, times
from polytape.training.objectives.labels import ELEMENTWISE, Holes, Labels
from polytape.training.objectives.logits_check import LogitsCheck, of_probabilities
from polytape.training.objectives.losses import Parts, Path, loss_parts, resolve_loss
from polytape.training.objectives.objective import FromInput, Objective, Step
from polytape.training.objectives.objective_value import ObjectiveValue, activity
from polytape.training.objectives.running_means import Means


class Objectives:
    """Evaluates objectives on a step, and notes what they came to."""

    def __init__(self, given: Sequence[Objective], halves: bool = False, samples: int = 0) -> None:
        """halves, samples: as for `Ledger`."""
        _check(given)
        self.given = {objective.name: objective for objective in given}
        self._losses = {
            name: resolve_loss(objective.loss, f"Objective {name!r}: its loss")
            for name, objective in self.given.items()
            if not objective.of_step
        }
        # Read now: within a traced step the value of a variable is no number.
        self.starts = {name: objective.start for name, objective in self.given.items()}
        self._halves, self._samples = halves, samples
        self.holes = Holes()  # metrics ask; losses look for NaN in any float target
        self._means = Means([f"{name}_loss" for name in self.given])
        self.logits_checks = {
            name: LogitsCheck(name, loss)
            for name, loss in self._losses.items()
            if of_probabilities(loss)
        }
        self._found: dict[str, ObjectiveValue] = {}
        self._weighted: dict[str, Tensor] = {}
        self._evaluations = 0
        self.asked: tuple[str, ...] | None = None  # of a phase, while it is evaluated

    def evaluate(self, step: Step, names: Sequence[str]) -> None:
        """Compute the losses of some objectives, in the mode of the step."""
        self._evaluations += 1
        failed: list[Exception] = []

        def run() -> None:
            try:
                self._found = {name: self._evaluated(self.given[name], step) for name in names}
            except Exception as error:  # raised outside, or Keras adds the layer to its message
                failed.append(error)

        _Mode()(function=run, training=step.training)
        if failed:
            raise failed[0]

    def _evaluated(self, objective: Objective, step: Step) -> ObjectiveValue:
        if objective.of_step:
            if self._halves or self._samples:
                raise ValueError(_WHOLE.format(name=objective.name))
            parts: Parts = [_called(objective, step)]
            labels = None
        else:
            parts, labels = self._compared(objective, step)
        check_scalar(objective.name, parts[0])
        parts = [ops.cast(part, keras.config.floatx()) for part in parts]
        return ObjectiveValue(parts, labels, activity(objective, step, labels))

    def _compared(self, objective: Objective, step: Step) -> tuple[Parts, Labels | None]:
        y_pred = _entry(step.outputs, objective.output, objective.name, "output")
        y_true = _target(objective, step.inputs, step.targets)
        loss = self._losses[objective.name]
        _check_ranks(loss, objective.name, y_true, y_pred)
        weights = self._weights(objective, step.sample_weight, y_true, y_pred)
        if objective.name in self.logits_checks:
            self.logits_checks[objective.name].update_state(y_true, y_pred)
        return loss_parts(loss, y_true, y_pred, weights, self._halves, self._samples)

    def _weights(self, objective: Objective, given: Any, y_true: Any, y_pred: Any) -> Any:
        """The sample weights of an objective, those of its classes included; or None.

        given  for all targets alike, or a nest of those of some of them
        """
        own = isinstance(objective.target, FromInput)
        weights = _optional(given, objective.output if own else objective.target)
        if objective.class_weight is None:
            return weights
        loss, name = self._losses[objective.name], objective.name
        found = of_classes(name, objective.class_weight, loss, y_true, y_pred)
        return found if weights is None else times(found, weights)

    def ignored(self, path: Path) -> int | None:
        """The class that a loss of the output at a path ignores, if one does."""
        for name, loss in self._losses.items():
            output = self.given[name].output
            parts = tuple(output.split("/")) if isinstance(output, str) else (output,)
            if parts in (path, path[: len(parts)]) or len(self._losses) == 1:
                found: int | None = getattr(loss, "ignore_class", None)
                if found is not None:
                    return found
        return None

    def weights(self, names: Sequence[str]) -> dict[str, Any]:
        """The weights of objectives as configs: numbers and schedules; None for a variable."""
        found = {name: self.given[name].weight for name in names}
        return {
            name: None
            if isinstance(weight, keras.Variable)
            else keras.saving.serialize_keras_object(weight)
            for name, weight in found.items()
        }

    @property
    def described(self) -> dict[str, Any]:
        """What `model.loss` shows: {objective: its loss}."""
        return {name: objective.loss for name, objective in self.given.items()}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What runs along with the epoch."""
        return [*self._means.metrics, *self.logits_checks.values()]

    # ------------------------------------------------------------------ as of a Ledger

    @property
    def losses(self) -> list[Any]:
        """The losses themselves, as they were given."""
        return [objective.loss for objective in self.given.values()]

    empty = False  # there is no objective without a loss
    wrapped = None  # nothing for Keras to evaluate

    def names(self, outputs: Any, output_names: Sequence[str]) -> tuple[str, ...]:
        """Objective names, known from the start."""
        del outputs, output_names
        return tuple(self.given)

    @contextlib.contextmanager
    def gathering(self, names: Sequence[str]) -> Iterator[None]:
        """Let a user's `compute_loss` evaluate the objectives of a phase."""
        self._evaluations, self.asked = 0, tuple(names)
        try:
            yield
        finally:
            self.asked = None

    @property
    def evaluated(self) -> bool:
        """Whether there are values. ValueError if there are those of more than one evaluation."""
        if self._evaluations > 1:
            raise ValueError(
                "compute_loss calls super().compute_loss(...) "
                f"{self._evaluations} times, and a step evaluates objectives once. Call it once, "
                "and write what it was called for again as an objective of its own: "
                'pt.Objective("again", function_of_the_step).'
            )
        return self._evaluations == 1

    def gathered_of(self, names: Sequence[str]) -> list[int]:
        """As of a Ledger: each has one value."""
        return [*range(len(names))]

    def values(self, names: Sequence[str], part: int = 0) -> list[Tensor]:
        """Values of the evaluation just made: see `Ledger.values`. Weights come later."""
        return [self._found[name].parts[part] for name in names]

    def weigh(self, weights: Mapping[str, Tensor]) -> None:
        """Note the shares of objectives in the total loss.

        weights  {objective: () float32}
        """
        for name, weight in weights.items():
            loss = self._found[name].parts[0]
            self._weighted[name] = self._found[name].kept(ops.cast(weight, loss.dtype) * loss)

    def returned(self, names: Sequence[str]) -> list[Tensor]:
        """As of a Ledger: the shares in the total loss."""
        return self.weighted(names)

    def weighted(self, names: Sequence[str]) -> list[Tensor]:
        """The shares just noted, () each; zero for an objective that is not active."""
        return [self._weighted[name] for name in names]

    def present(self, names: Sequence[str]) -> Tensor | None:
        """(T,) bool: which objectives are active; None: always all of them."""
        found = [self._found[name].present for name in names]
        if all(present is None for present in found):
            return None
        return ops.stack([ops.ones((), "bool") if p is None else p for p in found])

    def measured(
        self, inputs: Any, targets: Any, outputs: Any, sample_weight: Any
    ) -> tuple[Any, Any, Any]:
        """Targets, outputs and sample weights for metrics, under the keys of the outputs.

        Of outputs in a dict only those that have a target. Weights hold those of the classes.
        """
        given = [o for o in reversed(self.given.values()) if not o.of_step]
        given.sort(key=lambda objective: objective.class_weight is not None)
        bound = {objective.output: objective for objective in given}  # the last one counts

        def weights(key: Any, target: Any, y_true: Any, y_pred: Any) -> Any:
            if key in bound:
                return self._weights(bound[key], sample_weight, y_true, y_pred)
            return _optional(sample_weight, target)

        own = {key: o for key, o in bound.items() if isinstance(o.target, FromInput)}
        if own and targets is None:
            single = len(bound) == 1 and not keras.tree.is_nested(outputs)
            targets = _target(next(iter(own.values())), inputs, None) if single else {}
        if isinstance(targets, Mapping) and isinstance(outputs, Mapping):
            named = {key: bound[key].target if key in bound else key for key in outputs}
            found = {key: t for key, t in named.items() if key in own or t in targets}
            y_true = {
                key: _target(own[key], inputs, None) if key in own else targets[target]
                for key, target in found.items()
            }
            y_pred = {key: outputs[key] for key in found}
            weighed = {key: weights(key, t, y_true[key], y_pred[key]) for key, t in found.items()}
            return y_true, y_pred, _unless_none(weighed)
        lists = isinstance(targets, (list, tuple)) and isinstance(outputs, (list, tuple))
        if lists and len(targets) == len(outputs):
            places = enumerate(zip(targets, outputs, strict=True))
            return targets, outputs, _unless_none([weights(i, i, *pair) for i, pair in places])
        if len(bound) == 1 and not keras.tree.is_nested(targets) and not lists:
            (objective,) = bound.values()
            y_pred = _entry(outputs, objective.output, objective.name, "output")
            return targets, outputs, self._weights(objective, sample_weight, targets, y_pred)
        return targets, outputs, sample_weight

    def note(self, batch: Tensor, training: bool) -> None:
        """Add the values to the running means.

        batch     () int: the number of samples, the weight of a mean without labels
        training  whether they are of a step of training
        """
        self._means.training = training
        seen = dict.fromkeys(self.given, (0.0, 0.0))
        for name, each in self._found.items():
            count = batch if each.labels is None else each.labels.count
            numbers = each.parts[0], count
            seen[name] = tuple(each.kept(ops.cast(number, "float32")) for number in numbers)
        self._means.add(*zip(*seen.values(), strict=True))


class _Mode(keras.layers.Layer):
    """Runs a function in training mode or not: layers called in it inherit that."""

    def __init__(self) -> None:
        super().__init__(autocast=False, dtype="float32", name="mode")
        self.built = True

    def call(self, function: Callable[[], Any], training: Any = None) -> Any:
        del training
        return function()


def _called(objective: Objective, step: Step) -> Any:
    """What an objective's function returns; an error of its own gets to know whose it is."""
    try:
        return objective.loss(step)
    except Exception as error:
        known = {"Outputs": step.outputs, "Targets": step.targets, "Networks": step.networks}
        there = [
            f"{what}: {', '.join(map(repr, nest))}."
            for what, nest in known.items()
            if isinstance(nest, Mapping)
        ]
        error.add_note(" ".join((f"In the loss of objective {objective.name!r}.", *there)))
        raise


def _target(objective: Objective, inputs: Any, targets: Any) -> Any:
    """What an objective compares its output with."""
    if not isinstance(objective.target, FromInput):
        return _entry(targets, objective.target, objective.name, "target")
    key = objective.target.key
    if key is not None:
        found = _entry(inputs, key, objective.name, "input")
        if keras.tree.is_nested(found):
            raise ValueError(
                f"Objective {objective.name!r}: the input {key!r} holds several. Name one of "
                f'them, as in pt.FromInput("{key}/0").'
            )
        return found
    leaves = keras.tree.flatten(inputs)
    if len(leaves) != 1:
        names = ", ".join(map(repr, inputs)) if isinstance(inputs, Mapping) else f"{len(leaves)}"
        raise ValueError(
            f"Objective {objective.name!r}: its target is pt.FromInput(), the only input, and "
            f'there are several: {names}. Say which: pt.FromInput("image"), or pt.FromInput(0).'
        )
    return leaves[0]


def _entry(nest: Any, key: Any, name: str, what: str) -> Any:
    """The entry of outputs or targets that an objective asks for."""
    if nest is None:
        raise ValueError(
            f"Objective {name!r} compares an output with a target, and fit() got no targets. Give "
            "`y`; target=pt.FromInput() if the target is an input; or a loss that is a function of "
            "the step."
        )
    if not isinstance(nest, (Mapping, list, tuple)):
        return nest
    found: Any = nest
    for part in [key] if not isinstance(key, str) else key.split("/"):
        place = int(part) if isinstance(found, (list, tuple)) and str(part).isdigit() else part
        try:
            found = found[place]
        except (KeyError, IndexError, TypeError):
            raise ValueError(_missing(nest, key, name, what)) from None
    return found


def _optional(nest: Any, key: Any) -> Any:
    """The sample weights that are given for a target, or for all of them alike; or None."""
    if not isinstance(nest, (Mapping, list, tuple)):
        return nest
    found: Any = nest
    for part in [key] if not isinstance(key, str) else key.split("/"):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, (list, tuple)):
            found = found[int(part)]
    return found


def _unless_none(weights: Any) -> Any:
    """Sample weights, or None if there are none at all."""
    return None if all(leaf is None for leaf in keras.tree.flatten(weights)) else weights


def _missing(nest: Any, key: Any, name: str, what: str) -> str:
    asked = "target=pt.FromInput({})" if what == "input" else what + "={}"
    if not isinstance(nest, Mapping):
        return (
            f"Objective {name!r} asks for the {what} {key!r}, but the {what}s are a list of "
            f"{len(nest)}: give the place, as in pt.Objective({name!r}, ..., {asked.format(0)})."
        )
    hint = did_you_mean(key, nest, cutoff=0.6)
    return (
        f"Objective {name!r} asks for the {what} {key!r}, which is not there.{hint} "
        f"{what.capitalize()}s: {', '.join(map(repr, nest)) or 'none'}. Name it with "
        f"pt.Objective({name!r}, ..., {asked.format('...')})."
    )


def _check(given: Sequence[Objective]) -> None:
    if not isinstance(given, (list, tuple)) or not given:
        raise TypeError(
            f"compile(objectives=...) takes a list of pt.Objective. Received: {given!r}."
        )
    for objective in given:
        if not isinstance(objective, Objective):
            raise TypeError(
                "compile(objectives=...) takes a list of pt.Objective. "
                f"Received in it: {objective!r} of type {type(objective).__name__}."
            )
    names = [objective.name for objective in given]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"Two objectives are called {sorted(twice)[0]!r}. Give each its own name.")


def _check_ranks(loss: keras.losses.Loss, name: str, y_true: Any, y_pred: Any) -> None:
    """Raise if a target would be spread over an output by broadcasting."""
    true, pred = tuple(y_true.shape), tuple(y_pred.shape)
    lower, wide = len(true) < len(pred) and pred[-1] != 1, len(true) == len(pred) > 1
    if getattr(loss, "fn", None) in ELEMENTWISE and (lower or (wide and true[-1] != pred[-1])):
        raise ValueError(
            f"Objective {name!r}: its target has shape {true} and its output {pred}. They would be "
            "matched by broadcasting, not number by number. Give them the same shape, or use a "
            "sparse loss for class numbers."
        )


_WHOLE = (
    "This method compares gradients of halves or of single samples of the batch, and objective "
    "{name!r} is a function of the whole step. Bind a Keras loss to an output instead, or choose "
    "another method."
)
