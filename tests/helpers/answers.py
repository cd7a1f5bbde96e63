"""What methods answer, as numbers that are compared between backends.

    KERAS_BACKEND=numpy python tests/helpers/answers.py FILE

writes NumPy's answers; `of_numpy` has that done once for all processes of a test run.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from compiled import compiled
from polytape.catalogue import all_methods
from polytape.contract import Integer, Method, OneOf, Preference, Range
from polytape.contract.rules import rules_of
from polytape.linalg.ideal import Point
from polytape.testing import Trial, matrices
from polytape.testing.matrices import Matrix

Answers = dict[str, list[float]]  # matrix or step, and what of it: the numbers
FOUR = ("well conditioned", "conflicting", "opposed", "rank 2", "spread")
STEPS = 3
# Backends draw other numbers: where the draw decides nothing, the answers are equal all the same.
SURE: dict[str, dict[str, Any]] = {"ReLoBRaLo": {"saudade": 1.0}, "GradDrop": {"leak": 1.0}}
PAIRS = ("GradVac", "PCGrad")  # they draw an order, which does not matter for two objectives
DRAWN = ("RandomWeights",)
KEPT = ("faulty",)  # Krum wants five objectives, then


@cache
def trial(name: str) -> Trial:
    """A method with its defaults, and what of it has been compiled."""
    return Trial(all_methods()[name](), compiled)


@cache
def cases() -> dict[str, Method]:
    """Every method as it is, with all its settings moved, and with each other choice it offers."""
    found: dict[str, Method] = {}
    for name, cls in all_methods().items():
        if name in DRAWN:
            continue
        sure = SURE.get(name, {})
        found[name] = cls(**sure)
        for title, settings in _variants(cls):
            found[f"{name} {title}"] = cls(**{**settings, **sure})
    return found


def _variants(cls: type[Method]) -> Iterator[tuple[str, dict[str, Any]]]:
    usual = {field.name: field.default for field in dataclasses.fields(cls)}
    rules = rules_of(cls)
    moved = {name: _moved(rule, usual[name]) for name, rule in rules.items() if name not in KEPT}
    if moved:
        yield "moved", moved
    for name, rule in rules.items():
        if isinstance(rule, OneOf) and name != "scale":
            for value in rule.values:
                if value not in (usual[name], moved.get(name)):
                    yield f"{name}={value}", {name: value}


def _moved(rule: Any, usual: Any) -> Any:
    """Another value that a rule admits."""
    if isinstance(rule, Preference):
        return 1.0, 2.0, 0.5, 3.0
    if isinstance(rule, Point):
        return 0.01, 0.02, 0.03, 0.04
    if isinstance(rule, OneOf):
        return rule.values[rule.values.index(usual) - 1]
    if isinstance(rule, Integer):
        return usual + 1
    assert isinstance(rule, Range)
    return next(v for v in (0.7, 0.3, 1.5) if rule.admits(v) and v != usual)


def chosen(case: str) -> list[Matrix]:
    """The matrices that a case is asked about: all of them if nothing is set."""
    name = case.split()[0]
    if name in PAIRS:
        wanted = {"two", "two opposed"}
    else:
        wanted = {m.name for m in matrices()} if case == name else set(FOUR)
    if "permutation" in all_methods()[name].exempt:  # rounding decides between equal objectives
        wanted -= {"sixty-four"}
    return [matrix for matrix in matrices() if matrix.name in wanted]


def answers(case: str) -> Answers:
    """Weights and update for each matrix; then weights and state of each of some steps."""
    method, found = cases()[case], Answers()
    asked = trial(case) if case in all_methods() and case not in SURE else Trial(method, compiled)
    for matrix in chosen(case):
        update = asked.on(matrix)
        found[f"{matrix.name}: weights"] = update.weights.tolist()
        found[f"{matrix.name}: direction"] = update.direction.tolist()
        found[f"{matrix.name}: size"] = [update.size]
    rows, losses = _walk(2 if case.split()[0] in PAIRS else 4)
    state, active = asked.start(losses[0].shape, rows.shape[-1]), np.ones(len(losses[0]), bool)
    for step in range(STEPS):
        weights, state = asked.step(rows[step], losses[step], active, state)
        found[f"step {step}: weights"] = weights.tolist()
        for index, leaf in enumerate(keras.tree.flatten(state)):
            found[f"step {step}: state {index}"] = np.ravel(ops.convert_to_numpy(leaf)).tolist()
    return found


def _walk(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (STEPS, T, 12) and losses (STEPS, T)."""
    rng = np.random.default_rng(4)
    matrix = next(m for m in matrices() if m.name == "well conditioned")
    rows = matrix.rows + 0.3 * rng.normal(size=(STEPS, *matrix.rows.shape))
    return rows[:, :count], rng.uniform(0.5, 2.0, (STEPS, count))


def of_numpy(folder: Path) -> dict[str, Answers]:
    """NumPy's answers in every case, found once: the first process to ask has them written."""
    file, taken = folder / "answers.json", folder / "answers.taken"
    try:
        os.close(os.open(taken, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        for _ in range(1200):
            if file.exists():
                break
            time.sleep(0.1)
        return json.loads(file.read_text())
    settings = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = (sys.executable, __file__, str(file))
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(file.read_text())


if __name__ == "__main__":
    written = Path(sys.argv[1] + ".part")
    written.write_text(json.dumps({case: answers(case) for case in cases()}))
    written.replace(sys.argv[1])  # at once: others wait for it
