"""A comparison that was stopped goes on: the plan out of its record, if nothing contradicts it."""

from pathlib import Path

import keras

from polytape.catalogue import resolve
from polytape.compare import environment, serialised
from polytape.contract import Method
from polytape.diagnostics.records import Comparison
from polytape.problems import Problem, load, names
from polytape.problems.registry import anywhere, fingerprint

RECORDS = "records.json"
DECISIVE = ("polytape", "backend", "keras", "tensorflow", "jax", "torch")  # for the numbers


def planned(folder: Path) -> Comparison:
    """The record in a folder, with its plan.

    Errors: ValueError if there is none that can be read.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise ValueError(
            f"There is nothing to resume in {folder}: it has no {RECORDS}. Name the folder that "
            "`polytape compare --out` wrote to."
        )
    return Comparison.load(path)


def check_words(
    plan: Comparison,
    folder: Path,
    *,
    problem: str | None = None,
    methods: dict[str, Method] | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    out: Path | None = None,
) -> None:
    """Refuse words of the command line that say something else than the plan; None: not said.

    Errors: ValueError that names the word, what it says and what the plan says.
    """
    settings = {name: serialised(method) for name, method in (methods or {}).items()}
    said: dict[str, tuple[object, object]] = {
        "PROBLEM": (anywhere(problem or plan.source), plan.source or anywhere(problem or "")),
        "--methods": (methods and ",".join(sorted(methods)), ",".join(sorted(plan.methods))),
        "--seeds": (seeds, len(plan.seeds)),
        "--epochs": (epochs, plan.epochs),
        "--batch-size": (batch_size, plan.batch_size),
        "--learning-rate": (learning_rate, plan.learning_rate),
        "--out": (out and str(out.absolute()), str(folder.absolute())),
    }
    said |= {
        f"--methods {name}": (settings[name], plan.settings.get(name, settings[name]))
        for name in settings
    }
    for word, (here, there) in said.items():
        if here is not None and here != there:
            raise ValueError(
                f"{word} contradicts the plan in {folder}: received {here}, planned is {there}. "
                f"Leave it out to go on as planned, or begin another comparison without --resume "
                "and with a new folder, as in --out results."
            )


def check_environment(plan: Comparison, folder: Path) -> list[str]:
    """What is different here and harmless, one line each.

    Errors: ValueError where a run made here and one made there would not be comparable.
    """
    here = environment()
    differing = [n for n in here if n in plan.environment and here[n] != plan.environment[n]]
    decisive = [name for name in differing if name in DECISIVE]
    if decisive:
        was = ", ".join(f"{name} {plan.environment[name]}" for name in decisive)
        now = ", ".join(f"{name} {here[name]}" for name in decisive)
        remedy = "Install what it was begun with"
        if "backend" in decisive:
            remedy = f"Set KERAS_BACKEND={plan.environment['backend']}"
        raise ValueError(
            f"The comparison in {folder} was begun with {was}; here is {now}. Its runs would not "
            f"be comparable. {remedy}, or begin another comparison in a new folder with --out."
        )
    return [
        f"Begun with {name} {plan.environment[name]}, resumed with {here[name]}: the last digits "
        "may differ."
        for name in differing
    ]


def problem_of(plan: Comparison, folder: Path, spec: str | None = None) -> Problem:
    """The problem of a plan.

    spec  said on the command line; for records that do not say where their problem is from

    Errors: ValueError if it is not found, or is another one by now.
    """
    source = plan.source or spec or (plan.problem if plan.problem in names() else "")
    if not source:
        raise ValueError(
            f"The record in {folder} does not say where its problem {plan.problem!r} is from. "
            f"Name it: polytape compare yours.py:problem --resume {folder}."
        )
    problem = load(source)
    pairs = {
        "name": (plan.problem, problem.name),
        "objectives": (plan.objectives, problem.objectives),
        "headline": (plan.headline, dict(problem.headline)),
    }
    for field, (there, here) in pairs.items():
        if there != here:
            raise ValueError(
                f"{source} is no longer the problem that was planned in {folder}: {field} "
                f"{there!r} then, {here!r} now. Put it back, or begin another comparison in a new "
                "folder with --out."
            )
    return problem


def changes(plan: Comparison) -> list[str]:
    """What has changed in the problem's file since, one line; none if nothing has."""
    if not plan.fingerprint or fingerprint(plan.source) == plan.fingerprint:
        return []
    return [
        f"{plan.source.rpartition(':')[0]} has been changed since the comparison was begun: runs "
        "from before and after are comparable only if what is trained is still the same."
    ]


def methods_of(plan: Comparison) -> dict[str, Method]:
    """The methods of a plan, with their settings."""
    return {
        name: keras.saving.deserialize_keras_object(plan.settings[name])
        if name in plan.settings
        else resolve(name)
        for name in plan.methods
    }
