"""Why a `polytape.Model` is learning, or not, on one batch."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Flags, Nest, Numbers
from polytape.differentiation.table import Table
from polytape.engines import engine
from polytape.engines.operations import LeftFrameworkError, Trace
from polytape.explanation.explanation import Explanation, Products
from polytape.explanation.finding import Finding
from polytape.explanation.measured import products_of
from polytape.explanation.search import Asked, left_framework, search
from polytape.explanation.words import ONE_CLASS
from polytape.training.backward import backward
from polytape.training.compilation import Compilation
from polytape.training.losses.evaluation import Batch
from polytape.training.losses.fit_data import one_batch
from polytape.training.losses.logits_check import of_logits, of_probabilities, outside
from polytape.training.plan import PhasePlan
from polytape.training.recording import PhaseRecording, forward_of, taken_apart


def explain_model(model: keras.Model, x: Nest, y: Nest, sample_weight: Nest = None) -> Explanation:
    """As `pt.explain`. All that the model holds has its value back afterwards."""
    compilation: Compilation | None = getattr(model, "compilation", None)
    if compilation is None:
        raise RuntimeError(
            "pt.explain takes a compiled pt.Model: pt.Model(...) or pt.Model.wrap(model), then "
            f"compile(optimizer=..., loss=..., combine=...). Received: {type(model).__name__}"
            + (", which was not compiled." if "polytape" in type(model).__module__ else ".")
        )
    given = one_batch(x, y, sample_weight)
    batch = Batch(*keras.tree.map_structure(_tensor, tuple(given)))
    _planned(compilation, batch)
    changing = [*model.non_trainable_variables, *model.metrics_variables]
    before = [(variable, ops.copy(variable.value)) for variable in changing]
    phases = range(len(compilation.settings.phases))
    try:
        with engine().alone():
            parts = [_Part(compilation, number, batch) for number in phases]
    finally:
        for variable, value in before:
            variable.assign(value)
    return _joined(compilation, parts)


def _tensor(value: Anything) -> Anything:
    return value if value is None else ops.convert_to_tensor(value)


def _planned(compilation: Compilation, batch: Batch) -> None:
    """Build the model and make its plan, if no step has done so."""
    model = compilation.model
    if not compilation.planned:
        if not model.built:
            model(batch.inputs)
        compilation.complete(model(batch.inputs))
    if not compilation.planned:
        raise RuntimeError(
            "The objectives are not known before the first training step. Call fit, or "
            "train_on_batch, once, then pt.explain."
        )


class _Part:
    """One phase: its gradients, its update, and what is wrong with them."""

    def __init__(self, compilation: Compilation, number: int, batch: Batch) -> None:
        self.compilation, self.plan = compilation, compilation.plan.phases[number]
        model, count = compilation.model, len(compilation.plan.index.variables)
        self.findings: list[Finding] = []
        self.losses = np.full(len(self.plan.names), np.nan)
        self.reach = np.zeros((len(self.plan.names), count), bool)
        self.products = products_of([[None] * count for _ in self.plan.names], None)
        changed = {*map(id, model.trainable_variables)} ^ {
            *map(id, compilation.plan.index.variables)
        }
        if changed:
            self.findings += _changed(compilation, changed)
            return
        try:
            with keras.StatelessScope():  # seeds that are no variables of the model move, too
                recorded, trace = engine().trace(
                    forward_of(compilation, number, batch), lambda: model.trainable_variables
                )
            recorded = taken_apart(compilation, number, recorded)
            one, group = ops.ones((), "float32"), [*recorded.groups["losses"]]
            rows: Table = [recorded.vjp({place: one}, range(count)) for place in group]
        except LeftFrameworkError as left:
            self.findings.append(left_framework(left.line))
            return
        present, step = recorded.outputs[2], compilation.plan.clock.read()
        recording = PhaseRecording(recorded, self.plan, step, one, present)
        self.present = _flags(present, len(self.plan.names))
        self.losses = np.array([float(ops.convert_to_numpy(loss)) for loss in recording.losses])
        self.reach = np.array([[gradient is not None for gradient in row] for row in rows])
        allowed = self.plan.routes.allowed
        self.products = products_of(rows, self._update(recording), self.plan.aggregator.blocks.of)
        squares = np.diagonal(self.products.rows, axis1=1, axis2=2).T
        index = compilation.plan.index
        self.findings += search(
            Asked(
                objectives=self.plan.names,
                scalars=group,
                networks=[owner or "(other)" for owner in index.owners],
                paths=index.paths,
                reach=self.reach,
                routes=allowed,
                declared=allowed & _declared(compilation, self.plan)[:, None],
                zero=self.reach & (squares == 0),
                finite=np.isfinite(squares),
                losses=self.losses,
                present=self.present,
            ),
            trace,
        )
        self.findings += _untracked(trace, model)
        still = {found.objective for found in self.findings if found.kind == "saturated"}
        self.findings += _wrong_numbers(compilation, self.plan, recorded.outputs[0], trace, still)

    def _update(self, recording: PhaseRecording) -> Sequence[Tensor | None] | None:
        """The directions of a training step; None where it would be refused."""
        trained = self.reach & self.plan.routes.allowed
        if not trained.any(axis=1).all():
            return None
        if self.plan.examples is not None:  # made of what layers get, which nobody has noted here
            return None
        state = self.plan.aggregator.state.read()
        directions = backward(recording).directions
        self.plan.aggregator.state.write(state, ops.ones((), "bool"))
        return directions


def _wrong_numbers(
    compilation: Compilation,
    phase: PhasePlan,
    outputs: Nest,
    trace: Trace,
    still: Collection[str],
) -> Iterator[Finding]:
    """Of losses of probabilities that get logits, and the other way round.

    still  objectives of which it is known that something saturated leaves no gradient
    """
    source = compilation.settings.source
    for name, loss, output in source.compared(outputs, compilation.output_names):
        if name not in phase.names or not (of_probabilities(loss) or of_logits(loss)):
            continue
        values = np.asarray(ops.convert_to_numpy(output))
        if "categorical" in str(loss.name) and values.shape[-1:] == (1,):
            yield Finding(
                name,
                "",
                "wrong numbers",
                f"{loss.name} gets one number for each example, so there is one class only and its "
                "probability is always 1",
                "For two classes use binary_crossentropy with one unit, or two units.",
                str(loss.name),
            )
            continue
        number = outside(values)
        if of_probabilities(loss) and number:
            yield Finding(
                name,
                "",
                "wrong numbers",
                f"{loss.name} takes its output for probabilities, and {number} of {values.size} "
                "numbers are below 0 or above 1; Keras clips those, and what is clipped has no "
                "gradient",
                "If the output is logits, give the loss as an object with from_logits=True; else "
                "end the network in a softmax or sigmoid.",
                loss.name,
            )
        elif of_logits(loss) and not number and _squashed(trace, values, "softmax", "sigmoid"):
            yield Finding(
                name,
                "",
                "wrong numbers",
                f"{loss.name} has from_logits=True, and its output are probabilities already: it "
                "came out of a softmax or sigmoid, which is applied a second time and flattens the "
                "gradient",
                "Leave out from_logits=True, or the softmax or sigmoid at the end of the network.",
                loss.name,
            )
        elif name not in still and _always_one(values) and _squashed(trace, values, "softmax"):
            yield Finding(  # TensorFlow's losses look behind a softmax: there is a gradient
                name,
                "",
                "wrong numbers",
                "softmax has one number only to choose from, so that its result is always 1; "
                f"{loss.name} looks at what goes into the softmax, so that it falls all the same",
                ONE_CLASS.remedy,
                "softmax",
            )


def _always_one(values: Numbers) -> bool:
    return values.shape[-1:] == (1,) and bool((values == 1).all())


def _squashed(trace: Trace, values: Numbers, *by: str) -> bool:
    """Whether some values came out of one of these operations."""
    numbers = trace.numbers
    for operation in trace.operations if numbers else ():
        if operation.name in by and numbers is not None:
            made = np.asarray(numbers.value(operation.outputs[0]))
            if made.size == values.size and np.allclose(made.ravel(), values.ravel(), atol=1e-6):
                return True
    return False


def _flags(present: Anything, count: int) -> Flags:
    if present is None:
        return np.ones(count, bool)
    return np.asarray(ops.convert_to_numpy(present), bool)


def _declared(compilation: Compilation, phase: PhasePlan) -> Flags:
    """(T,) bool: objectives whose route the user wrote down."""
    objectives = compilation.settings.objectives
    if objectives is None:
        return np.zeros(len(phase.names), bool)
    return np.array([objectives.given[name].trains is not None for name in phase.names])


def _changed(compilation: Compilation, changed: set[int]) -> list[Finding]:
    """Of variables that train and did not, or the other way round, when the model was compiled."""
    index = compilation.plan.index
    known = zip(index.variables, index.paths, index.owners, strict=True)
    found: dict[str, list[str]] = {}
    for variable, path, owner in known:
        if id(variable) in changed:
            found.setdefault(owner or path.split("/")[0], []).append(path)
    more = [v.path for v in compilation.model.trainable_variables if id(v) in changed]
    if more:
        found.setdefault("", []).extend(more)
    return [
        Finding(
            "",
            owner,
            "frozen",
            "`trainable` was changed, or a layer added, after compile(): what is trained was "
            f"settled there. Changed: {', '.join(paths[:3])}"
            + f" and {len(paths) - 3} more"
            * (len(paths) > 3),
            "Set `trainable` first, then call compile() again.",
            variables=tuple(paths),
        )
        for owner, paths in found.items()
    ]


def _untracked(trace: Trace, model: keras.Model) -> list[Finding]:
    known = {variable.path for variable in model.variables}
    paths = tuple(sorted({path for path in trace.others.values() if path not in known}))
    if not paths:
        return []
    listed = ", ".join(map(repr, paths[:3])) + f" and {len(paths) - 3} more" * (len(paths) > 3)
    return [
        Finding(
            "",
            "",
            "untracked",
            f"The forward pass reads {listed}: trainable, "
            "and no variable of the model: nothing trains them",
            "Make the layer an attribute of the model or of one of its layers (not of a function, "
            "a Lambda or a closure), and create variables in __init__ or build with add_weight.",
            variables=paths,
        )
    ]


def _joined(compilation: Compilation, parts: Sequence[_Part]) -> Explanation:
    """One explanation of all phases, objectives in the order of the plan."""
    plan = compilation.plan
    names, index = plan.names, plan.index
    total, variables = len(names), len(index.variables)
    reach, routes = np.zeros((total, variables), bool), np.zeros((total, variables), bool)
    rows = np.zeros((variables, total, total))
    update, square = np.zeros((variables, total)), np.zeros(variables)
    weights = np.full((variables, total), np.nan)
    losses: dict[str, float] = {}
    for part in parts:
        own = np.array([names.index(name) for name in part.plan.names])
        reach[own], routes[own] = part.reach, part.plan.routes.allowed
        rows[np.ix_(np.arange(variables), own, own)] = part.products.rows
        update[:, own], weights[:, own] = part.products.update, part.products.weights
        square += part.products.square
        losses.update(zip(part.plan.names, part.losses.tolist(), strict=True))
    owners = tuple(owner or "(other)" for owner in index.owners)
    return Explanation(
        objectives=tuple(names),
        networks=tuple(dict.fromkeys(owners)),
        method=type(compilation.settings.method).__name__,
        losses={name: losses[name] for name in names},
        paths=tuple(index.paths),
        owners=owners,
        layers=tuple(path.rpartition("/")[0] or path for path in index.paths),
        reach=reach,
        routes=routes,
        products=Products(rows, update, square, weights),
        findings=_merged(
            [_within(finding, compilation.model) for part in parts for finding in part.findings]
        ),
    )


def _within(finding: Finding, model: keras.Model) -> Finding:
    """The finding without the name of the model itself among the layers."""
    inner = finding.layer.removeprefix(model.name).removeprefix("/")
    known = finding.layer == model.name or finding.layer.startswith(f"{model.name}/")
    return replace(finding, layer=inner) if known else finding


def _merged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Each once; of what several objectives share, once for all of them."""
    return tuple(dict.fromkeys(findings))
