"""What a comparison leaves behind: plain data that needs no framework to be read again."""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from polytape.diagnostics.strict_json import numbers, plain

Status = Literal["finished", "diverged", "failed"]
FORMAT = 2  # raised when a reader of the old format could no longer read the file
READABLE = (1, 2)  # the first has no layers, weights, shares, settings, source, fingerprint


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
        layers: {layer: one number an epoch}: `opposition` of the same gradients in the layer alone,
            for each layer that several objectives reach
        recorded: the training steps, from 0, of which weights and shares were recorded
        weights: {objective: w of its gradient, one number each}; empty if the method has none
        shares: {objective: its share of the update, one number each}; empty likewise
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
    layers: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    recorded: list[int] = dataclasses.field(default_factory=list)
    weights: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    shares: dict[str, list[float]] = dataclasses.field(default_factory=dict)
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
        settings: {method: as Keras serialises it}, so that it can be made again
        source: what `polytape.problems.load` takes; "" for a problem that was handed over
        fingerprint: of the file in `source`; "" for a problem that is built in
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
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    source: str = ""
    fingerprint: str = ""

    @property
    def planned(self) -> list[tuple[str, int]]:
        """(method, seed) of every run of the plan, in the order in which they are made."""
        return [(method, seed) for seed in self.seeds for method in self.methods]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """(method, seed) of every planned run that was not made."""
        return self._planned_without({"finished", "diverged", "failed"})

    @property
    def pending(self) -> list[tuple[str, int]]:
        """(method, seed) of every planned run that was not made, or failed."""
        return self._planned_without({"finished", "diverged"})

    def _planned_without(self, statuses: set[Status]) -> list[tuple[str, int]]:
        made = {(run.method, run.seed) for run in self.runs if run.status in statuses}
        return [pair for pair in self.planned if pair not in made]

    def add(self, run: Run) -> None:
        """Take in a run, in the order of the plan and in place of one of that method and seed.

        Args:
            run: that was made
        """
        others = [r for r in self.runs if (r.method, r.seed) != (run.method, run.seed)]
        self.runs = sorted([*others, run], key=lambda r: self.planned.index((r.method, r.seed)))

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
        text = json.dumps(plain({"format": FORMAT, **dataclasses.asdict(self)}), allow_nan=False)
        unfinished = path.with_name(path.name + ".tmp")
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the name points to it, also where power fails
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
            if form in READABLE:
                return cls._from(found)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path} is not a record of a comparison: {type(error).__name__}: {error}. "
                "Expected the records.json that `polytape compare` writes."
            ) from error
        raise ValueError(
            f"{path} has format {form}, this version of polytape reads "
            f"{' and '.join(map(str, READABLE))}. "
            "Read it with the version that wrote it, named in its `environment`."
        )

    @classmethod
    def _from(cls, found: dict[str, Any]) -> "Comparison":
        found["runs"] = [Run(**numbers(run)) for run in found["runs"]]
        found["headline"] = {name: tuple(pair) for name, pair in found["headline"].items()}
        for name in ("objectives", "methods", "seeds"):
            found[name] = tuple(found[name])
        return cls(**found)


def opposition(cosines: Sequence[Sequence[float]]) -> float:
    """Mean over pairs of objectives of max(0, -cosine) of their gradients.

    0: no two gradients point apart; 1: all are opposed, which only two can be. A pair with a zero
    gradient has no angle and counts as 0.

    Args:
        cosines: (T, T), T > 1

    Returns:
        A number from 0 to 1.

    Example:
        >>> opposition([[1.0, -0.5], [-0.5, 1.0]])
        0.5
    """
    pairs = combinations(range(len(cosines)), 2)
    return statistics.fmean(
        max(0.0, -cosines[i][j]) if math.isfinite(cosines[i][j]) else 0.0 for i, j in pairs
    )


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
