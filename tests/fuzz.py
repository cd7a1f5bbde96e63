"""Methods and training under fire: `python -m tests.fuzz --minutes 10`, `--seed 7` for one case.

A case draws a method with hyper-parameters that its rules admit, sometimes inside a wrapper. It is
asked on nasty matrices; then it trains a small network in which losses, gradients, weights or
inputs are not finite in some steps, with phases, loss scaling, accumulation or several optimizers.
Variables, slots and states must stay finite, a step that is left out as a whole touches nothing,
and good steps after it are told as such. Each case that fails is printed with its seed.
"""

import argparse
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # as pytest does

import polytape as pt
from polytape.catalogue import all_methods
from polytape.contract import (
    Evidence,
    Fixed,
    Integer,
    LossesBeforeAfter,
    Method,
    OneOf,
    PerObjective,
    Preference,
    Products,
    Range,
    Seed,
    evaluate,
    iter_methods,
)
from polytape.contract.rules import rules_of
from polytape.testing.matrices import Array, matrices
from small import arrays

METHODS = all_methods()
EXTREMES = (0.0, 1e-37, 1e-30, 1e-10, 1e-3, 1.0, 1e3, 1e10, 1e30, 1e37, math.inf)
NAMES = ("a", "b", "c")
FAULTS = ("loss", "gradient", "weight", "target", "input", "none")


# ------------------------------------------------------------------------------------ methods


def admitted(rng: np.random.Generator, rule: Any, count: int) -> Any:
    """A value that a rule admits, often at the edge of what it admits."""
    if isinstance(rule, OneOf):
        return rule.values[rng.integers(len(rule.values))]
    if isinstance(rule, Integer):
        return int(rule.low + rng.choice([0, 0, 1, 2, 3, 7]))
    if isinstance(rule, Preference):
        spread = float(rng.choice([0.0, 1.0, 2.9]))
        return tuple((10.0 ** rng.uniform(-spread, spread, count)).tolist())
    assert isinstance(rule, Range)
    values = [*EXTREMES, *(-x for x in EXTREMES), rule.low, rule.high, 1 - 1e-9, None]
    values += [10.0 ** rng.uniform(-6, 6), *rng.uniform(0, 1, 3).tolist()]
    values = [value for value in values if rule.admits(value)]
    return values[rng.integers(len(values))]


def method_of(rng: np.random.Generator, names: tuple[str, ...]) -> Method:
    """A method with hyper-parameters of all sizes, sometimes inside another."""
    cls = [*METHODS.values()][rng.integers(len(METHODS))]
    rules = {name: rule for name, rule in rules_of(cls).items() if rng.random() < 0.5}
    try:
        method = cls(**{name: admitted(rng, rule, len(names)) for name, rule in rules.items()})
        method.init(names)
    except ValueError:  # some fit together, or the number of objectives, only in other ways
        method = cls()
    bound = float(rng.choice([1e-30, 1e-3, 1.0, 1e30, math.inf]))
    decay = float(rng.choice([0.0, 0.5, 0.999]))
    factor = float(10.0 ** rng.uniform(-30, 30))
    ways = (
        lambda: pt.Smoothed(method, decay=decay),
        lambda: pt.GlobalClip(method, bound),
        lambda: pt.Every(method, steps=2),
        lambda: pt.Log(method),
        lambda: pt.PerVariable(method),
        lambda: pt.Chain(pt.Clip(bound), method),
        lambda: pt.Chain(pt.Normalize("loss"), method),
        lambda: pt.Chain(pt.ScaleInvariant(), method),
        lambda: pt.Chain(pt.Reweight({names[0]: factor}), method),
    )
    if rng.random() < 0.6:
        return method
    try:
        return ways[rng.integers(len(ways))]()
    except (ValueError, TypeError):  # it works coordinate by coordinate, or has a scope
        return method


def nasty(rng: np.random.Generator, count: int) -> Array:
    """Rows (count, n) at all angles, of norms from 1e-12 to 1e12 or zero."""
    known = [matrix.rows for matrix in matrices() if len(matrix.rows) == count]
    kind = rng.integers(6)
    rows = rng.normal(size=(count, int(rng.integers(1, 9))))
    if kind == 0 and known:
        rows = known[rng.integers(len(known))]
    elif kind == 1:  # almost opposed, or almost parallel
        rows = np.outer(rng.choice([-1.0, 1.0], count), rows[0])
        rows = rows + 10.0 ** rng.uniform(-12, -1) * rng.normal(size=rows.shape)
    elif kind == 2:
        rows = np.outer(rng.normal(size=count), rows[0])
    elif kind == 3:
        rows[rng.random(count) < 0.4] = 0.0
    spread = float(rng.choice([0, 0, 3, 12]))
    rows = rows * 10.0 ** rng.uniform(-spread, spread, (count, 1))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.clip(norms, 1e-12, 1e12) / np.where(norms > 0, norms, 1.0)


def losses_of(rng: np.random.Generator, count: int) -> Array:
    kind = rng.integers(6)
    size = [0.0, 1.0, 6.0, 20.0, 36.0, 36.0][kind]
    found = 10.0 ** rng.uniform(-size, size, count)
    found = found * rng.choice([1.0, 1.0, 1.0, 0.0, -1.0], count) if kind in (3, 4) else found
    return np.float32(found)


def sizes(method: Method) -> list[float]:
    """The sizes of a method's hyper-parameters, but for those that are 0 or infinite."""
    found = []
    for part in iter_methods(method):
        values = [getattr(part, field.name) for field in dataclasses.fields(part)]
        if isinstance(part, pt.Reweight):
            values = [*part.weights.values()]
        for value in values:
            each = value if isinstance(value, tuple) else (value,)
            found += [abs(x) for x in each if isinstance(x, (int, float)) and x]
    return [x for x in found if x < math.inf]


def question(
    method: Method, rows: Array, losses: Array, active: Array, step: int, last: LossesBeforeAfter
) -> Evidence:
    """What a method sees of rows (count, n); in a scope, as of two variables."""
    names, seed = tuple(map(str, range(len(rows)))), Seed(keras.random.SeedGenerator(3).next())
    gramian = np.float32(rows @ rows.T)
    blocks = () if method.scope is None else ("one", "other")
    if blocks:
        gramian = np.stack([gramian, np.flip(gramian)])
        gramian *= active[:, None] & active
    return Evidence(
        losses=ops.convert_to_tensor(losses),
        gramian=ops.convert_to_tensor(gramian),
        active=ops.convert_to_tensor(active),
        names=names,
        step=ops.convert_to_tensor(np.int32(step)),
        seed=seed,
        reach=np.ones((2, len(rows)), bool) if blocks else None,
        blocks=blocks,
        readings={
            "cross": Products(ops.convert_to_tensor(gramian)),
            "previous": PerObjective(ops.convert_to_tensor(losses)),
            "traces": PerObjective(ops.convert_to_tensor(np.abs(losses)), unsigned=True),
            "last": Fixed(LossesBeforeAfter(*map(ops.convert_to_tensor, last))),
        },
    )


def observed(
    method: Method, rows: Array, evidence: Evidence, memory: Any, state: Any
) -> tuple[Evidence, Any]:
    """The evidence of a method with a memory, and that memory, for one variable of these rows.

    As the engine does, what leaves float32 on the way is left out.
    """
    seen = method.observe(ops.convert_to_tensor(np.float32(rows)), memory, evidence, state)
    fine = evidence.active & ops.isfinite(ops.sum(ops.square(seen.rows), axis=1))
    for array in seen.memory.values():
        fine = fine & ops.isfinite(ops.sum(array, axis=1))
    kept = fine[:, None]
    taken = ops.where(kept, seen.rows, 0.0)
    evidence = dataclasses.replace(
        evidence,
        gramian=ops.matmul(taken, ops.transpose(taken)),
        readings={
            **evidence.readings,
            **({} if seen.measures is None else {"measures": Fixed(seen.measures[None])}),
        },
        active=fine,
        losses=ops.where(fine, evidence.losses, 0.0),
    )
    return evidence, {name: ops.where(kept, seen.memory[name], memory[name]) for name in memory}


def asked(rng: np.random.Generator) -> Iterator[str]:
    """A method on some matrices, step after step: no weight is NaN and the state is finite.

    What is exempt, since training leaves out the step that it belongs to: weights that leave
    float32; NaN from a Chain or a Log, which say so of an objective whose rows or losses leave it
    between two stages, unless all sizes are ordinary.
    """
    count = int(rng.integers(1, 6))
    names = tuple(map(str, range(count)))
    method = method_of(rng, names)
    nested = method.memory is None and any(p.memory is not None for p in iter_methods(method))
    closely = any("compressed_gradients" in part.evidence for part in iter_methods(method))
    if nested or (closely and rng.random() < 0.3):  # both are shown the rows themselves
        yield from looped(rng, method, count)
        return
    last = LossesBeforeAfter(
        np.zeros(count, "float32"), np.zeros(count, "float32"), np.zeros(count, bool)
    )
    state = method.init(names, () if method.scope is None else (2,))
    state = keras.tree.map_structure(ops.convert_to_tensor, state)
    width = int(rng.integers(1, 9)) if method.memory is not None else None
    memory: Any = {name: ops.zeros((count, width), dtype="float32") for name in method.memory or ()}
    ordinary = all(1e-4 < size < 1e4 for size in sizes(method))
    for step in range(int(rng.integers(1, 6))):
        active = rng.random(count) < 0.8 if rng.random() < 0.3 else np.ones(count, bool)
        rows, losses = nasty(rng, count) * active[:, None], losses_of(rng, count) * active
        if width is not None:
            rows = np.resize(rows, (count, width)) * active[:, None]
        norms = np.linalg.norm(rows, axis=1)
        for size in (*norms, *np.abs(losses)):
            ordinary = ordinary and (size == 0 or 1e-4 < size < 1e4)
        evidence = question(method, rows, losses, active, step, last)
        if method.memory is not None:
            evidence, memory = observed(method, rows, evidence, memory, state)
        weights, after = evaluate(method, evidence, state)
        weights = ops.convert_to_numpy(weights)
        leaves = [ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten([after, memory])]
        free = isinstance(method, (pt.Chain, pt.Log)) and not ordinary
        told = f"{method!r}, step {step}: losses {losses}, active {active}, rows {rows.tolist()}"
        if np.isnan(weights).any() and not free:
            yield f"weights {weights} of {told}"
            return
        if not np.isfinite(weights).all():
            return  # training would leave out this step
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            yield f"state {leaves} of {told}"
            return
        state = after
        if any("losses_before_after" in part.evidence for part in iter_methods(method)):
            last = LossesBeforeAfter(
                losses, np.float32(losses * 10.0 ** rng.uniform(-3, 3, count)), active
            )


def looped(rng: np.random.Generator, method: Method, count: int) -> Iterator[str]:
    """A method in a loop over losses that have these rows: updates and states are finite.

    An objective without a row has a loss that is not finite.
    """
    width = int(rng.integers(1, 9))
    variable, combiner = keras.Variable(np.zeros(width, "float32")), pt.Combiner(method)
    for step in range(int(rng.integers(1, 5))):
        rows, values = np.resize(nasty(rng, count), (count, width)), losses_of(rng, count)
        values = np.where(rng.random(count) < 0.1, np.float32(math.nan), values)

        def losses(rows: Array = rows, values: Array = values) -> dict[str, Any]:
            products = ops.matmul(ops.convert_to_tensor(np.float32(rows)), variable)
            return {str(t): products[t] + float(values[t]) for t in range(count)}

        update = ops.convert_to_numpy(combiner(pt.gradients(losses, [variable]))[0])
        told = f"{method!r}, step {step} of a loop: losses {values}, rows {rows.tolist()}"
        if not np.isfinite(update).all():
            yield f"update {update} of {told}"
            return
        for state in combiner.variables:
            if not np.isfinite(arrays([state])[0]).all():
                yield f"{state.path} {arrays([state])[0]} of {told}"
                return


# ------------------------------------------------------------------------------------ training


@dataclasses.dataclass
class Case:
    """What is drawn for one model.

    scaled, several, phased  whether it has loss scaling, several optimizers, phases
    """

    method: Method
    on_nonfinite: str
    private: str
    scaled: bool
    several: bool
    phased: bool
    accumulates: int | None


def sized(method: Method) -> bool:
    """Whether a method has a number for each objective, and so belongs to all of them at once."""
    fields = [getattr(p, f.name) for p in iter_methods(method) for f in dataclasses.fields(p)]
    return any(isinstance(value, tuple) and isinstance(value[0], float) for value in fields)


def case_of(rng: np.random.Generator) -> Case:
    scaled, several = rng.random() < 0.25, rng.random() < 0.25
    method = method_of(rng, NAMES)
    while any(
        isinstance(part, pt.Reweight) for part in iter_methods(method)
    ):  # objectives have weights
        method = method_of(rng, NAMES)
    return Case(
        method=method,
        on_nonfinite=str(rng.choice(["drop", "drop", "isolate", "skip"])),
        private=str(rng.choice(["own", "weighted", "joint"])),
        scaled=scaled and not several,
        several=several,
        phased=rng.random() < 0.2 and not sized(method),
        accumulates=int(rng.integers(2, 4)) if rng.random() < 0.2 else None,
    )


class Bad(keras.layers.Layer):
    """Its input; in a bad row, one that is not finite or has a gradient that is not."""

    def call(self, inputs: Any) -> Any:
        hidden, fault = inputs
        root = ops.sqrt(ops.maximum(hidden * 0.0, 0.0))  # zero, with a gradient that is NaN
        return hidden + ops.where(fault > 0, root, 0.0)


def model_of(case: Case) -> tuple[pt.Model, keras.Variable]:
    """A trunk and three heads, and the weight of objective a."""
    keras.utils.set_random_seed(0)
    x, fault = keras.Input((4,), name="x"), keras.Input((1,), name="fault")
    hidden = keras.layers.Dense(5, activation="tanh", name="trunk")(x)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in NAMES}
    heads["a"] = Bad(name="bad")([heads["a"], fault])
    found = pt.Model({"x": x, "fault": fault}, heads)

    def optimizer() -> Any:
        inner = keras.optimizers.Adam(0.01, gradient_accumulation_steps=case.accumulates)
        return keras.optimizers.LossScaleOptimizer(inner) if case.scaled else inner

    weight = keras.Variable(1.0)
    found.compile(
        optimizer={"trunk": optimizer(), "*": optimizer()} if case.several else optimizer(),
        objectives=[
            pt.Objective("a", "mse", weight=weight),
            pt.Objective("b", "huber", weight=0.5),
            pt.Objective("c", "mse"),
        ],
        phases=[["a", "b"], ["c"]] if case.phased else None,
        combine=case.method,
        private=case.private,
        on_nonfinite=case.on_nonfinite,
        seed=1,
        verbose=0,
        run_eagerly=True,
    )
    return found, weight


def batch(rng: np.random.Generator, fault: str, weight: keras.Variable) -> tuple[Any, Any]:
    """Inputs and targets with one thing that is not finite."""
    bad = float(rng.choice([math.nan, math.inf, -math.inf, 1e8, 1e25]))
    x = {"x": rng.normal(size=(8, 4)).astype("float32"), "fault": np.zeros((8, 1), "float32")}
    y = {name: rng.normal(size=(8, 1)).astype("float32") for name in NAMES}
    weight.assign(bad if fault == "weight" else 1.0)
    if fault == "gradient":
        x["fault"][3] = 1.0
    elif fault == "input":
        x["x"][2, 1] = bad
    elif fault == "target":
        y["b"][5] = bad
    elif fault == "loss":
        y["c"][:] = bad
    return x, y


def trained(rng: np.random.Generator, number: int = 6) -> Iterator[str]:
    """A model in some steps, most of which are bad.

    One that is left out as a whole leaves variables, slots and the method's state exactly as they
    were, and so as in a run without it. That is so for "skip", and where one backward pass is all;
    with phases an earlier one may have moved them. The scale is the optimizer's to lower.
    """
    case = case_of(rng)
    found, weight = model_of(case)
    told = f"{case}"
    linear = case.on_nonfinite == "drop" and found.plan.aggregator.single_pass
    whole = (case.on_nonfinite == "skip" or linear) and not case.phased
    optimizer = found.optimizer.inner_optimizer if case.scaled else found.optimizer
    for step in range(number):
        fault = str(rng.choice(FAULTS))
        x, y = batch(rng, fault, weight)
        state = found.plan.aggregator.state.variables
        guarded = [*found.trainable_variables, *optimizer.variables, *state]
        before = arrays(guarded)
        found.reset_metrics()
        logs = found.train_on_batch(x, y, return_dict=True)
        dropped = found.plan.dropped.total()
        now = [*found.variables, *found.optimizer.variables]
        now += [v for c in found.plan.phases for v in c.aggregator.state.variables]
        for variable in now:
            value = arrays([variable])[0]
            given = fault == "weight" and "reweight" in variable.path
            if not np.isfinite(value).all() and not given and "metric" not in variable.path:
                yield f"{variable.path} after a bad {fault} in step {step} of {told}"
                return
        if fault == "none" and not math.isfinite(logs["loss"]):
            yield f"the loss of good step {step} is {logs['loss']}: {told}"
            return
        if whole and dropped:
            for variable, old, new in zip(guarded, before, arrays(guarded), strict=True):
                if not np.array_equal(old, new) and "reweight" not in variable.path:
                    yield f"{variable.path} moved in a step left out, {fault}, {step}: {told}"
                    return


def run(seed: int, training: bool) -> Iterator[str]:
    """What is wrong in one case."""
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield from trained(rng) if training else asked(rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="repeat this case")
    chosen = parser.parse_args()
    can_train = keras.backend.backend() != "numpy"
    end, failed, first = time.time() + 60 * chosen.minutes, 0, int(time.time()) % 10**6
    print(f"seeds from {first}")
    for seed in [chosen.seed] if chosen.seed is not None else range(first, 10**9):
        for training in (False, True) if can_train else (False,):
            for wrong in run(seed, training):
                failed += 1
                print(f"--seed {seed}: {wrong}", flush=True)
        if time.time() > end:
            break
    print(f"to {seed}: {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
