"""What a comparison leaves behind: plain data that needs no framework to be read again."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, Literal

Status = Literal["finished", "diverged", "failed"]
FORMAT = 1  # raised when a reader of the old format could no longer read the file


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of the problem's model: one method, one seed.

    Args:
        method: class name, such as "UPGrad"
        seed: sets the initial weights and the order of the data
        status: "finished"; "diverged" if a headline number or loss ended up not finite; "failed" if
            training raised an error
        reason: the error or the cause of the divergence, "" otherwise
        history: Keras history, {key: one number an epoch}, validation included
        cosines: one (T, T) matrix an epoch: cosines between the objectives' gradients over the
            shared variables, on the fixed probe batch, at the end of the epoch
        norms: one (T,) list an epoch: norms of the same gradients
        step_seconds: mean wall-clock seconds of a training step, one number an epoch; the first
            epoch contains compilation
        seconds: wall-clock seconds of the whole run
    """

    method: str
    seed: int
    status: Status = "finished"
    reason: str = ""
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    cosines: list[list[list[float]]] = dataclasses.field(default_factory=list)
    norms: list[list[float]] = dataclasses.field(default_factory=list)
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


@dataclasses.dataclass
class Comparison:
    """Everything that `polytape compare` found out, in the order in which it was planned.

    Args:
        problem: its name
        description: of the problem, in a sentence
        objectives: their names
        headline: {objective: (metric, "max" or "min")}
        methods: names in the order of the command line; with `seeds` this is the plan, and `runs`
            is what came of it
        seeds: that each method is run with
        epochs: of each run
        batch_size: samples in a batch
        learning_rate: of the optimizer
        environment: {"polytape": version, "keras": version, "backend": name, ...}
        runs: made so far
        interrupted: whether someone stopped it
    """

    problem: str
    description: str
    objectives: tuple[str, ...]
    headline: dict[str, tuple[str, str]]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    runs: list[Run] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    @property
    def missing(self) -> list[tuple[str, int]]:
        """(method, seed) of every planned run that was not made."""
        made = {(run.method, run.seed) for run in self.runs}
        planned = [(method, seed) for seed in self.seeds for method in self.methods]
        return [pair for pair in planned if pair not in made]

    def of(self, method: str) -> list[Run]:
        """The runs of one method, by seed.

        Args:
            method: its name

        Returns:
            The runs, in the order of the seeds.
        """
        return sorted((run for run in self.runs if run.method == method), key=lambda run: run.seed)

    def headline_key(self, objective: str) -> str:
        return f"val_{objective}_{self.headline[objective][0]}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write strict JSON (numbers that are not finite become null), never half a file.

        Args:
            path: of the file
        """
        path = Path(path)
        text = json.dumps(_plain({"format": FORMAT, **dataclasses.asdict(self)}), allow_nan=False)
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Comparison":
        """Read what `save` wrote; null becomes NaN again.

        Args:
            path: of the file

        Returns:
            The record.

        Raises:
            ValueError: If the file is not a record of a comparison, or of a newer format.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            form = found.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path} is not a record of a comparison: {type(error).__name__}: {error}. "
                "Expected the records.json that `polytape compare` writes."
            ) from error
        if form != FORMAT:
            raise ValueError(
                f"{path} has format {form}, this version of polytape reads {FORMAT}. "
                "Read it with the version that wrote it, named in its `environment`."
            )
        found["runs"] = [Run(**_numbers(run)) for run in found["runs"]]
        found["headline"] = {name: tuple(pair) for name, pair in found["headline"].items()}
        for name in ("objectives", "methods", "seeds"):
            found[name] = tuple(found[name])
        return cls(**found)


class Watch:
    """Is told what happens while a comparison is made; this one does not care."""

    def started(self, method: str, seed: int, total: int) -> None:
        """A run begins; `total` runs are planned.

        Args:
            method: its name
            seed: of the run
            total: of runs that are planned
        """

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        """An epoch (from 1) has ended.

        Args:
            number: from 1
            logs: of the epoch
        """

    def ended(self, run: Run) -> None:
        """A run has ended, well or badly.

        Args:
            run: what came of it
        """


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else value
