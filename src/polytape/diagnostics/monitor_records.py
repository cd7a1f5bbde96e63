"""What a monitored training leaves behind: JSON lines that need no framework to be read.

`monitor.jsonl` holds one JSON object a line, and lines are only ever added:

    {"kind": "header", "format": 1, "objectives": [...], ...}  first, and again where a fit goes on
    {"kind": "step", "step": 0, "epoch": 0, "phase": 0, ...}   for each phase of a monitored step
    {"kind": "epoch", "epoch": 0, "logs": {"loss": 0.7}}       when an epoch has ended

A line is written whole and at once, so a training that is killed loses no line but the one being
written, and a reader leaves such a torn last line aside. Where a fit goes on from an earlier step
than the last one that was recorded, as after a restored checkpoint, the records of the steps that
are made again stay in the file, and `MonitorRun.load` gives the later ones.

Numbers that are not finite are null in the file and NaN in memory. So is what belongs to an
objective that was not active in a step. What has no meaning is left out of the file and empty in
memory: the Gramian of a network that no two objectives train, weights of a method that has none.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from polytape.diagnostics.strict_json import numbers, plain

FORMAT = 1  # raised when a reader of the old format could no longer read the file
FILE = "monitor.jsonl"

Matrix = list[list[float]]
ByObjective = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured of the gradients, over all variables or those of one network.

    Gradients are those of the losses, before any weight of a method or objective; d is the combined
    update, the gradient that the optimizer gets. Shared variables are those that two or more
    objectives train.

    Args:
        norms: norm of each objective's gradient by every variable that it trains, loss / parameter
        gramian: (T, T) inner products of the gradients over the shared variables, in the order of
            the objectives; empty if there are none
        weights: w_t that the method gave each objective on the shared variables; empty if there is
            no such number, for a method that changes the rows themselves or a scope that is finer
        share: <w_t g_t, d> / <d, d>, how much of the update is an objective's; with its private
            variables. They add up to 1; where something was added to the losses (`add_loss`, a
            regulariser), its share is what the others leave of 1. Empty for a method that changes
            the rows themselves, as the update is then no weighted sum
    """

    norms: ByObjective = dataclasses.field(default_factory=dict)
    gramian: Matrix = dataclasses.field(default_factory=list)
    weights: ByObjective = dataclasses.field(default_factory=dict)
    share: ByObjective = dataclasses.field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        """In the order of rows and columns."""
        return tuple(self.norms)

    @property
    def cosines(self) -> Matrix:
        """(T, T) cosines over the shared variables; NaN for an inactive one or a zero gradient."""
        lengths = [_root(row[place]) for place, row in enumerate(self.gramian)]
        return [
            [
                product / (one * other) if one * other > 0 else math.nan
                for product, other in zip(row, lengths, strict=True)
            ]
            for row, one in zip(self.gramian, lengths, strict=True)
        ]

    @cached_property
    def pairs(self) -> dict[tuple[str, str], float]:
        """{(a, b): cosine} of each pair of objectives, once, where it is a number."""
        names, found = self.objectives, {}
        lengths = [_root(row[place]) for place, row in enumerate(self.gramian)]
        for place, row in enumerate(self.gramian):
            for other in range(place + 1, len(row)):
                length = lengths[place] * lengths[other]
                if length > 0:  # NaN is not
                    found[names[place], names[other]] = row[other] / length
        return found

    @property
    def conflict_rate(self) -> float:
        """The share of pairs in conflict, from 0 to 1; NaN if there is no pair.

        Two active objectives are in conflict if the cosine of their gradients over the shared
        variables is below 0.
        """
        cosines = [*self.pairs.values()]
        return sum(cosine < 0 for cosine in cosines) / len(cosines) if cosines else math.nan

    @cached_property
    def scalars(self) -> dict[str, float]:
        """The numbers by name: "norm/a", "cosine/a/b", "weight/a", "share/a", "conflict_rate"."""
        return self._named()

    def _named(self) -> dict[str, float]:
        found = {f"norm/{name}": value for name, value in self.norms.items()}
        names, pairs = self.objectives, self.pairs
        if len(self.gramian) > 1:
            for place, one in enumerate(names):
                for other in names[place + 1 :]:
                    found[f"cosine/{one}/{other}"] = pairs.get((one, other), math.nan)
        found.update({f"weight/{name}": value for name, value in self.weights.items()})
        found.update({f"share/{name}": value for name, value in self.share.items()})
        if len(self.gramian) > 1:
            found["conflict_rate"] = self.conflict_rate
        return found

    def as_json(self) -> dict[str, Any]:
        """What a line of the file says of it."""
        found: dict[str, Any] = {"norms": self.norms}
        for name in ("gramian", "weights", "share"):
            if value := getattr(self, name):
                found[name] = value
        if len(self.gramian) > 1:
            found["conflict_rate"] = self.conflict_rate
        return found


@dataclasses.dataclass(frozen=True)
class StepRecord(Figures):
    """One phase of one training step.

    Args:
        step: training steps made before it
        epoch: that it belongs to, from 0
        phase: from 0; the header says which objectives that is
        seconds: of training so far, by the clock on the wall; interpolated between the moments at
            which records were fetched
        losses: without their weights; NaN if not finite, or not active in this step
        networks: {network: the same of its variables}
    """

    step: int = 0
    epoch: int = 0
    phase: int = 0
    seconds: float = 0.0
    losses: ByObjective = dataclasses.field(default_factory=dict)
    networks: dict[str, Figures] = dataclasses.field(default_factory=dict)

    def _named(self) -> dict[str, float]:
        found = {f"loss/{name}": value for name, value in self.losses.items()}
        found.update(super()._named())
        for network, figures in self.networks.items():
            found.update({f"{network}/{key}": value for key, value in figures.scalars.items()})
        return found

    def as_json(self) -> dict[str, Any]:
        found = {"kind": "step", "step": self.step, "epoch": self.epoch, "phase": self.phase}
        networks = {name: figures.as_json() for name, figures in self.networks.items()}
        return {
            **found,
            "seconds": self.seconds,
            "losses": self.losses,
            **super().as_json(),
            "networks": networks,
        }


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """The logs of an epoch, as Keras gave them.

    Args:
        epoch: from 0
        logs: {name: number}, validation included
    """

    epoch: int
    logs: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """What a line of the file says of it."""
        return {"kind": "epoch", "epoch": self.epoch, "logs": self.logs}


@dataclasses.dataclass(frozen=True)
class Header:
    """What the records that follow are of.

    Args:
        objectives: their names
        networks: their names: of `pt.Model(networks=...)`, or the top-level layers
        method: {"name": of its class, "settings": {...}}
        optimizer: {"name": ..., "settings": {...}}, or {network: the same} if there are several
        every: a step out of so many is monitored
        environment: {"polytape": version, "keras": version, "backend": name, ...}
        phases: [{"objectives": [...], "steps": times in a step}]
        step: at which this fit began;  epoch  likewise
        seconds: of training before it
    """

    objectives: tuple[str, ...]
    networks: tuple[str, ...] = ()
    method: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    every: int = 1
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    phases: tuple[dict[str, Any], ...] = ()
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """What a line of the file says of it."""
        return {"kind": "header", "format": FORMAT, **dataclasses.asdict(self)}


@dataclasses.dataclass
class MonitorRun:
    """Everything that a monitor wrote of a training, in order.

    Args:
        header: the last one, of the fit that was made last
        steps: one for each phase of a monitored step
        epochs: those that have ended
        headers: one for each fit that added to the file
        torn: whether the file ends in a line that was never finished, which is left aside
    """

    header: Header
    steps: list[StepRecord]
    epochs: list[EpochRecord]
    headers: list[Header] = dataclasses.field(default_factory=list)
    torn: bool = False

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "MonitorRun":
        """Read what a monitor wrote.

        Args:
            path: of the file, or of the folder that holds it

        Returns:
            The records; of steps that were made twice, the later ones.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds something else, or is of a newer format.
        """
        path = file_in(path)
        found: list[dict[str, Any]] = []
        torn = False
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if torn:
                    raise ValueError(_foreign(path, f"line {number - 1} is no JSON object"))
                record = _parsed(line)
                torn = record is None
                if record is not None:
                    found.append(record)
        if not found or found[0].get("kind") != "header":
            raise ValueError(_foreign(path, "the first line is no header"))
        run = cls(_header(path, found[0]), [], [], [], torn)
        for record in found:
            run._add(path, record)
        return run

    def _add(self, path: Path, record: dict[str, Any]) -> None:
        kind = record.get("kind")
        if kind == "header":
            header = _header(path, record)
            self.header = header
            self.headers.append(header)
            # These steps and epochs are made again.
            self.steps = [each for each in self.steps if each.step < header.step]
            self.epochs = [each for each in self.epochs if each.epoch < header.epoch]
        elif kind == "step":
            self.steps.append(_step(record))
        elif kind == "epoch":
            self.epochs.append(EpochRecord(record["epoch"], numbers(record["logs"])))
        # Kinds that a later version adds are left aside.

    def of_phase(self, phase: int) -> list[StepRecord]:
        """The records of one phase, step by step.

        Args:
            phase: from 0

        Returns:
            The records, in order.
        """
        return [record for record in self.steps if record.phase == phase]

    def column(self, name: str, phase: int | None = None) -> list[float]:
        """One number over the steps, such as "norm/a" or "encoder/conflict_rate".

        Args:
            name: as in `StepRecord.scalars`
            phase: from 0; None takes the records of all phases

        Returns:
            One number for each record, NaN where it has none.
        """
        records = self.steps if phase is None else self.of_phase(phase)
        return [record.scalars.get(name, math.nan) for record in records]


class MonitorWriter:
    """Adds records to a file, each line whole and at once.

    A file that ends in a torn line loses that line; what is finished stays.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """path  of the file, or of the folder that holds or is to hold it; made if missing"""
        self.path = file_in(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _mend(self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def write(self, records: Iterable[Header | StepRecord | EpochRecord]) -> None:
        """Add records. They are with the operating system when this returns.

        Args:
            records: in order
        """
        text = "".join(_line(record.as_json()) for record in records)
        self._file.write(text.encode("utf-8"))

    def close(self) -> None:
        """Nothing more is added."""
        self._file.close()


def file_in(path: str | os.PathLike[str]) -> Path:
    """The file of a monitor: `path` itself if that names a file of records, else in that folder.

    Args:
        path: of a file that ends with .jsonl, or of a folder

    Returns:
        The path of the file.
    """
    path = Path(path)
    return path if path.suffix == ".jsonl" else path / FILE


def set_aside(path: str | os.PathLike[str]) -> Path | None:
    """Give the file of an earlier training another name, so that a new one can begin.

    Args:
        path: of the file, or of the folder with records

    Returns:
        The new path, such as `monitor.1.jsonl`; None if there was no file.
    """
    path = Path(path)
    path = path if path.suffix else file_in(path)
    if not path.exists():
        return None
    number = 1
    while (free := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    os.replace(path, free)
    return free


def epoch_means(records: Sequence[StepRecord]) -> dict[str, float]:
    """The mean of each number over records, of those that have it.

    Args:
        records: of one epoch

    Returns:
        {name as in `StepRecord.scalars`: mean}, NaN if none has it.
    """
    columns: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.scalars.items():
            columns.setdefault(name, []).append(value)
    return {name: _mean(column) for name, column in columns.items()}


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(plain(record), allow_nan=False, separators=(",", ":")) + "\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line, None if it is none, or not finished."""
    try:
        found = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _mend(path: Path) -> None:
    """Leave only whole lines."""
    with open(path, "r+b") as file:
        whole = 0
        for line in file:
            if _parsed(line) is None:
                break
            whole += len(line)
            complete = line.endswith(b"\n")
        else:
            if whole and not complete:
                file.write(b"\n")
            return
        if file.readline():  # not the last one: no monitor wrote this
            raise ValueError(_foreign(path, "a line in the middle is no JSON object"))
        file.truncate(whole)


def _header(path: Path, record: dict[str, Any]) -> Header:
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {record.get('format')}, this version of polytape reads {FORMAT}. "
            "Read it with the version that wrote it, named in its `environment`."
        )
    known = [field.name for field in dataclasses.fields(Header)]
    given = {name: record[name] for name in known if name in record}
    for name in ("objectives", "networks", "phases"):
        given[name] = tuple(given.get(name, ()))
    return Header(**given)


def _step(record: dict[str, Any]) -> StepRecord:
    record = numbers(record)
    networks = {name: Figures(**_figures(item)) for name, item in record["networks"].items()}
    own = {name: record[name] for name in ("step", "epoch", "phase", "seconds", "losses")}
    return StepRecord(**_figures(record), **own, networks=networks)


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(Figures)]
    return {name: record[name] for name in known if name in record}


def _foreign(path: Path, cause: str) -> str:
    return (
        f"{path} holds no records of a monitor: {cause}. Expected the {FILE} that "
        "pt.callbacks.GradientMonitor writes."
    )
