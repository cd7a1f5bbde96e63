"""The objectives of one `compile(objectives=...)`, evaluated: values, activity, running means."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor, did_you_mean, received
from polytape.contract.types import Anything, Key, LossLike, Mode, Nest
from polytape.differentiation.losses import check_scalar
from polytape.differentiation.replicated import division
from polytape.engines import engine
from polytape.evidence import Kind
from polytape.training.losses.class_weights import of_classes, times
from polytape.training.losses.evaluation import (
    Call,
    Evaluation,
    Listener,
    LossValue,
    all_present,
    cast,
    compare,
)
from polytape.training.losses.keras_losses import Path, resolve_loss
from polytape.training.losses.logits_check import LogitsCheck, of_probabilities
from polytape.training.losses.missing_labels import ELEMENTWISE, Holes, Labels, Terms, terms_of
from polytape.training.losses.objective import FromInput, Objective, Step
from polytape.training.losses.running_means import Means


@dataclass(frozen=True)
class ObjectiveValue:
    """An objective in one evaluation.

    loss     its value, and what kinds of evidence asked for
    present  () bool: whether it is active; None: in every step
    due      () bool: whether its loss was evaluated, and is not just zero; None: in every step
    """

    loss: LossValue
    present: Tensor | None
    due: Tensor | None = None

    def divisor(self, samples: Tensor) -> Tensor | None:
        """() what its mean is divided by; None for a sum. Of a function of the step the samples."""
        if self.loss.labels is None:
            return self.kept(ops.cast(samples, "float32"))
        return self.loss.labels.divisor

    def kept(self, number: Tensor) -> Tensor:
        """A number that belongs to it; zero where it is not active, or was not evaluated."""
        for flag in (self.present, self.due):
            number = number if flag is None else ops.where(flag, number, 0.0)
        return number


class Objectives:
    """The objectives of one `compile`, which evaluates them on a step.

    given        {name: objective}
    evaluations  for whoever wants to hear what they come to
    """

    def __init__(
        self, given: Sequence[Objective], kinds: Sequence[Kind] = (), plain: bool = False
    ) -> None:
        """kinds  of evidence that want more recorded than the losses

        plain  whether only their weighted sum is wanted, and so no value without its weight
        """
        _check(given)
        self.given = {objective.name: objective for objective in given}
        self._losses = {
            name: resolve_loss(objective.loss, f"Objective {name!r}: its loss")
            for name, objective in self.given.items()
            if not objective.of_step
        }
        # Read now: within a traced step the value of a variable is no number.
        self.starts = {name: objective.start for name, objective in self.given.items()}
        self.kinds, self._plain = tuple(kinds), plain
        self.holes = Holes()
        self._means = Means([f"{name}_loss" for name in self.given])
        self.logits_checks = {
            name: LogitsCheck(name, loss)
            for name, loss in self._losses.items()
            if of_probabilities(loss)
        }
        self.evaluations: Listener[Evaluation] = Listener()

    def evaluate(
        self, step: Step, weights: Mapping[str, Tensor], due: Tensor | None = None
    ) -> Evaluation:
        """The losses of some objectives, in the mode of the step; added to the running means.

        weights  {objective: () float32} of those that are evaluated
        due      (T,) bool: which of them in this step, the others' losses being zero; None: all
        """
        flags = dict(
            zip(weights, [None] * len(weights) if due is None else ops.unstack(due), strict=True)
        )
        values: dict[str, ObjectiveValue] = {}
        failed: list[Exception] = []

        def run() -> None:
            try:
                for name, flag in flags.items():
                    values[name] = self._evaluated(self.given[name], step, flag)
            except Exception as error:  # raised outside, or Keras adds the layer to its message
                failed.append(error)

        _Mode()(function=run, training=step.training)
        if failed:
            raise failed[0]
        self._note(values, batch_size(step.inputs), step.training)
        losses = [each.loss.value for each in values.values()]
        shares = [
            each.kept(ops.cast(weight, each.loss.value.dtype) * each.loss.value)
            for each, weight in zip(values.values(), weights.values(), strict=True)
        ]
        parts = [each.loss.parts for each in values.values()]
        known = shares if self._plain else losses
        calls = [Call(t, *pair) for t, pair in enumerate(zip(known, parts, strict=True))]
        present = all_present([each.present for each in values.values()])
        counts = []
        if engine().replica_count() > 1:
            counts = [each.divisor(batch_size(step.inputs)) for each in values.values()]
        terms = [
            None if each.loss.terms is None else _times(each.loss.terms, weight)
            for each, weight in zip(values.values(), weights.values(), strict=True)
        ]
        return Evaluation(losses, shares, parts, calls, present, counts, terms)

    def compared(
        self, outputs: Nest, output_names: Sequence[str]
    ) -> Iterator[tuple[str, keras.losses.Loss, Nest]]:
        """Of each objective with a loss its name, that loss and the output that it reads."""
        del output_names  # objectives ask for their own entries
        for name, loss in self._losses.items():
            yield name, loss, _entry(outputs, self.given[name].output, name, "output")

    def _evaluated(self, objective: Objective, step: Step, due: Tensor | None) -> ObjectiveValue:
        if objective.of_step:
            if self.kinds:
                raise ValueError(_WHOLE.format(name=objective.name))
            if objective.per is not None:
                found = self._terms_of_step(objective, step)
                return ObjectiveValue(found, _activity(objective, step, None))
            value = (
                self._of_step(objective, step)
                if due is None
                else _if_due(due, lambda: self._of_step(objective, step))
            )
            return ObjectiveValue(LossValue(value, {}, None), _activity(objective, step, None), due)
        found = self._compared(objective, step)
        check_scalar(objective.name, found.value)
        return ObjectiveValue(cast(found), _activity(objective, step, found.labels))

    def _of_step(self, objective: Objective, step: Step) -> Tensor:
        """() what its function returns, in Keras's float type."""
        value = _called(objective, step)
        check_scalar(objective.name, value)
        value = ops.cast(value, keras.config.floatx())
        return value if division() == 1 else value / division()  # as Keras's losses are

    def _terms_of_step(self, objective: Objective, step: Step) -> LossValue:
        """What its function returns for each example, or each time step, and their mean."""
        values = _called(objective, step)
        wanted = 1 if objective.per == "example" else 2
        if not ops.is_tensor(values) or len(values.shape) != wanted:
            shape = tuple(values.shape) if ops.is_tensor(values) else type(values).__name__
            raise ValueError(
                f"Objective {objective.name!r} has per={objective.per!r}: its function returns one "
                f"loss for each {objective.per}, a tensor of shape "
                f"{'(N,)' if wanted == 1 else '(N, L)'}. Received: {shape}."
            )
        values = ops.cast(values, keras.config.floatx())
        terms = values / ops.cast(ops.size(values), values.dtype)
        everyone = Terms(terms, ops.ones_like(terms, dtype="bool"))
        return LossValue(ops.mean(values), {}, None, everyone)

    def _compared(self, objective: Objective, step: Step) -> LossValue:
        y_pred = _entry(step.outputs, objective.output, objective.name, "output")
        y_true = _target(objective, step.inputs, step.targets)
        loss = self._losses[objective.name]
        _check_ranks(loss, objective.name, y_true, y_pred)
        weights = self._weights(objective, step.sample_weight, y_true, y_pred)
        if objective.name in self.logits_checks:
            self.logits_checks[objective.name].update_state(y_true, y_pred)
        kinds = self.kinds if self.evaluations.heard else ()  # whoever evaluates wants none
        inside = isinstance(objective.target, FromInput)  # where nobody has looked for NaN
        whole = not self.holes.possible and not inside
        found = compare(loss, y_true, y_pred, weights, kinds, whole)
        if objective.per is None or self._plain or not self.evaluations.heard:
            return found
        terms = terms_of(loss, y_true, y_pred, weights, objective.name, objective.per)
        return replace(found, terms=terms)

    def _weights(self, objective: Objective, given: Anything, y_true: Nest, y_pred: Nest) -> Nest:
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

    def weights(self, names: Sequence[str]) -> dict[str, Anything]:
        """The weights of objectives as configs: numbers and schedules; None for a variable."""
        found = {name: self.given[name].weight for name in names}
        return {
            name: None
            if isinstance(weight, keras.Variable)
            else keras.saving.serialize_keras_object(weight)
            for name, weight in found.items()
        }

    @property
    def described(self) -> dict[str, Anything]:
        """What `model.loss` shows: {objective: its loss}."""
        return {name: objective.loss for name, objective in self.given.items()}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What runs along with the epoch."""
        return [*self._means.metrics, *self.logits_checks.values()]

    # ------------------------------------------------------------------ as of Keras's losses

    @property
    def losses(self) -> list[LossLike]:
        """The losses themselves, as they were given."""
        return [objective.loss for objective in self.given.values()]

    empty = False  # there is no objective without a loss
    wrapped = None  # nothing for Keras to evaluate

    def names(self, outputs: Nest, output_names: Sequence[str]) -> tuple[str, ...]:
        """Objective names, known from the start."""
        del outputs, output_names
        return tuple(self.given)

    def measured(
        self, inputs: Nest, targets: Nest, outputs: Nest, sample_weight: Nest
    ) -> tuple[Anything, Anything, Anything]:
        """Targets, outputs and sample weights for metrics, under the keys of the outputs.

        Of outputs in a dict only those that have a target. Weights hold those of the classes.
        """
        given = [o for o in reversed(self.given.values()) if not o.of_step]
        given.sort(key=lambda objective: objective.class_weight is not None)
        bound = {objective.output: objective for objective in given}  # the last one counts

        def weights(key: Key, target: Anything, y_true: Nest, y_pred: Nest) -> Anything:
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

    def _note(self, values: Mapping[str, ObjectiveValue], batch: Tensor, training: bool) -> None:
        """Add the values to the running means.

        batch     () int: the number of samples, the weight of a mean without labels
        training  whether they are of a step of training
        """
        self._means.training = training
        seen = dict.fromkeys(self.given, (0.0, 0.0))
        for name, each in values.items():
            count = batch if each.loss.labels is None else each.loss.labels.count
            numbers = each.loss.value * division(), count
            seen[name] = tuple(each.kept(ops.cast(number, "float32")) for number in numbers)
        self._means.add(*zip(*seen.values(), strict=True))


class _Mode(keras.layers.Layer):
    """Runs a function in training mode or not: layers called in it inherit that."""

    def __init__(self) -> None:
        super().__init__(autocast=False, dtype="float32", name="polytape_mode")
        self.built = True

    def call(self, function: Callable[[], Anything], training: Mode = None) -> Nest:
        del training
        return function()


def _activity(objective: Objective, step: Step, labels: Labels | None) -> Tensor | None:
    """Whether an objective is active in a step, () bool; None if it is in every step.

    labels  those that it found; None if it is no loss with labels

    Raises ValueError if its `when` answers with more than one boolean.
    """
    asked = []
    if objective.every > 1 and step.training:
        asked.append(ops.equal(ops.mod(step.count, objective.every), 0))
    if objective.when is not None:
        answer = objective.when(step)
        if not ops.is_tensor(answer) and not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                f"Objective {objective.name!r}: `when` answers with one boolean, as in "
                f"lambda step: step.count < 1000. {received(answer)}"
            )
        due = ops.cast(answer, "bool")
        if len(due.shape):
            raise ValueError(
                f"Objective {objective.name!r}: `when` decides for the whole batch, with one "
                f"boolean. Received shape: {tuple(due.shape)}."
            )
        asked.append(due)
    if labels is not None:
        asked.append(labels.present)
    return functools.reduce(ops.logical_and, asked) if asked else None


def _if_due(due: Tensor, evaluate: Callable[[], Tensor]) -> Tensor:
    """A loss (), worked out and differentiated only where it is `due` () bool; else zero."""
    return ops.cond(due, evaluate, lambda: ops.zeros((), keras.config.floatx()))


def _times(terms: Terms, weight: Tensor) -> Terms:
    return Terms(terms.values * ops.cast(weight, terms.values.dtype), terms.counted)


def batch_size(x: Nest) -> Tensor:
    """The number of samples in any nest of inputs, () int."""
    return ops.shape(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None))[0]


def _called(objective: Objective, step: Step) -> Anything:
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


def _target(objective: Objective, inputs: Nest, targets: Nest) -> Nest:
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


def _entry(nest: Nest, key: Key, name: str, what: str) -> Nest:
    """The entry of outputs or targets that an objective asks for."""
    if nest is None:
        raise ValueError(
            f"Objective {name!r} compares an output with a target, and fit() got no targets. Give "
            "`y`; target=pt.FromInput() if the target is an input; or a loss that is a function of "
            "the step."
        )
    if not isinstance(nest, (Mapping, list, tuple)):
        return nest
    found: Anything = nest
    for part in [key] if not isinstance(key, str) else key.split("/"):
        place = int(part) if isinstance(found, (list, tuple)) and str(part).isdigit() else part
        try:
            found = found[place]
        except (KeyError, IndexError, TypeError):
            raise ValueError(_missing(nest, key, name, what)) from None
    return found


def _optional(nest: Nest, key: Key) -> Nest:
    """The sample weights that are given for a target, or for all of them alike; or None."""
    if not isinstance(nest, (Mapping, list, tuple)):
        return nest
    found: Anything = nest
    for part in [key] if not isinstance(key, str) else key.split("/"):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, (list, tuple)):
            found = found[int(part)]
    return found


def _unless_none(weights: Nest) -> Nest:
    """Sample weights, or None if there are none at all."""
    return None if all(leaf is None for leaf in keras.tree.flatten(weights)) else weights


def _missing(nest: Nest, key: Key, name: str, what: str) -> str:
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


def _check_ranks(loss: keras.losses.Loss, name: str, y_true: Nest, y_pred: Nest) -> None:
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
