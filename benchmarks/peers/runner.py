"""One run: all contenders on all nets, by turns, and what was found as plain records."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.peers.contender import Peer
from benchmarks.peers.devices import Device, cores, environment
from benchmarks.peers.nets import Net
from benchmarks.processes import NoAnswerError, Worker

REFERENCE = "LibMTL-style loop"  # solves exactly; else the first that has made a step
SLOW = 1.5  # a setting that takes so many times the time of the best one is measured no further
PATIENCE = 300.0  # seconds for an answer
PACKAGES = ("keras", "jax", "tensorflow", "torch", "torchjd", "conflictfree", "numpy")


@dataclass
class Line:
    """What was measured of one way of one contender.

    wall, cpu  seconds of a step, one for each round: on the clock, and of all its threads
    first  seconds of the first step, compilation included;  memory  peak bytes of later ones
    distance  |update - reference| / |reference|;  failed  why there is no more
    """

    net: str
    tasks: int
    method: str
    peer: str
    family: str
    way: str = ""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first: float | None = None
    memory: int | None = None
    distance: float | None = None
    differs: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run is asked for.

    seconds  of a turn;  limit  of the whole run, in seconds;  cores  0 for all
    clock  which of the two that are read counts;  command  the line that was typed
    """

    nets: Sequence[Net]
    methods: Sequence[str]
    peers: Sequence[Peer]
    rounds: int
    seconds: float
    limit: float
    device: Device = "cpu"
    cores: int = 0
    clock: Literal["wall", "cpu"] = "wall"
    command: str = ""


@dataclass
class Found:
    """A whole run: what it was and what it found."""

    about: dict[str, Any]
    lines: list[Line]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    def with_more(self, more: "Found") -> "Found":
        """What is new, and what of this is of other nets or methods."""
        new = {(line.net, line.tasks, line.method) for line in more.lines}
        old = [line for line in self.lines if (line.net, line.tasks, line.method) not in new]
        lines = [*old, *more.lines]
        both = self.about, more.about
        measured = {f"{line.net}-{line.tasks}" for line in lines}
        missed = dict.fromkeys(net for about in both for net in about["not measured"])
        joined = {
            "load": [load for about in both for load in about["load"]],
            "command": "; ".join(about["command"] for about in both),
            "not measured": [net for net in missed if net not in measured],
        }
        return Found({**more.about, **joined}, lines)

    @classmethod
    def load(cls, path: Path) -> "Found":
        known = json.loads(path.read_text())
        return cls(known["about"], [Line(**line) for line in known["lines"]])


Tell = Callable[[str], None]


def run(plan: Plan, tell: Tell, keep: Callable[[Found, Net], None]) -> Found:
    """Net by net; what is found is kept after each. Beyond the limit no net is begun."""
    deadline = time.monotonic() + plan.limit
    found = Found(_about(plan), [])
    for net in plan.nets:
        if time.monotonic() > deadline:
            found.about["not measured"].append(net.name)
            continue
        found.about["load"].append(round(os.getloadavg()[0], 1))
        case = _Case(net, plan, tell, deadline)
        try:
            found.lines += case.measured()
        finally:
            case.close()
        found.about["devices"] |= case.devices
        found.about["load"].append(round(os.getloadavg()[0], 1))
        keep(found, net)
    return found


def _about(plan: Plan) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "day": datetime.now(UTC).strftime("%d %B %Y").lstrip("0"),
        "python": platform.python_version(),
        "versions": versions,
        "device": plan.device,
        "devices": {},
        "processor": _processor(),
        "cores": plan.cores or cores(),
        "load": [],
        "rounds": plan.rounds,
        "clock": plan.clock,
        "command": plan.command,
        "seconds": plan.seconds,
        "not measured": [],
        "not installed": {peer.name: peer.pip for peer in plan.peers if peer.missing},
    }


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if not known.exists():
        return platform.processor()
    lines = known.read_text().splitlines()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), platform.machine())


class _Case:
    """All contenders on one net."""

    def __init__(self, net: Net, plan: Plan, tell: Tell, deadline: float) -> None:
        self.net, self.plan, self.tell, self.deadline = net, plan, tell, deadline
        self.devices: dict[str, str] = {}
        self.lines: list[Line] = []
        self.workers: dict[str, Worker] = {}
        self.folder = tempfile.TemporaryDirectory()
        for peer in plan.peers:
            if not peer.missing and set(peer.methods) & set(plan.methods):
                arguments = (peer.name, net.name, plan.device, plan.cores)
                env = environment(plan.device)
                module = "benchmarks.peers.worker"
                self.workers[peer.name] = Worker(module, *arguments, env=env)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.folder.cleanup()

    def measured(self) -> list[Line]:
        for peer in [*self._peers()]:
            self._begin(peer)
        for method in self.plan.methods:
            for peer in self._peers():
                if method in peer.methods:
                    self._build(peer, method)
            self._compare(method)
        done = 0
        while done < self.plan.rounds and (done < 2 or time.monotonic() < self.deadline):
            self._round(done)
            done += 1
            if done == 1:
                self._drop_slow_settings()
        return self.lines

    def _peers(self) -> list[Peer]:
        return [peer for peer in self.plan.peers if peer.name in self.workers]

    def _begin(self, peer: Peer) -> None:
        self.tell(f"{self.net.name}: {peer.name} starts")
        try:
            told = json.loads(self.workers[peer.name].wait(PATIENCE))
        except NoAnswerError as error:
            told = {"failed": str(error)}
        if "failed" in told:
            self.workers.pop(peer.name).close()
            self._failed(peer, self.plan.methods[0], told["failed"])
        else:
            self.devices[peer.name] = told["device"]

    def _ask(self, peer: str, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer; one that gives none is asked no more."""
        if peer not in self.workers:
            return {"failed": "its process has ended"}
        try:
            return json.loads(self.workers[peer].ask(json.dumps(question), PATIENCE))
        except NoAnswerError as error:
            self.workers.pop(peer).close()
            return {"failed": str(error)}

    def _failed(self, peer: Peer, method: str, reason: str) -> None:
        self.tell(f"{self.net.name}, {method}: {peer.name} fails: {reason}")
        self.lines.append(self._line(peer, method, failed=reason))

    def _line(self, peer: Peer, method: str, **known: Any) -> Line:
        net = self.net
        return Line(net.kind, net.tasks, method, peer.name, peer.family, **known)

    def _update(self, peer: str, method: str) -> Path:
        return Path(self.folder.name) / f"{peer} {method}.npy"

    def _build(self, peer: Peer, method: str) -> None:
        self.tell(f"{self.net.name}, {method}: {peer.name} makes its first step")
        path = str(self._update(peer.name, method))
        told = self._ask(peer.name, {"build": method, "update": path})
        if "failed" in told:
            self._failed(peer, method, told["failed"])
            return
        for index, (way, memory) in enumerate(told["memory"].items()):
            first = None if index else told["first"]
            reason = peer.differs.get(method, "")
            self.lines.append(
                self._line(peer, method, way=way, first=first, memory=memory, differs=reason)
            )

    def _compare(self, method: str) -> None:
        """Every contender's first update with the reference's."""
        lines = [line for line in self._lines(method) if not line.failed]
        names = [line.peer for line in lines]
        if not names:
            return
        reference = np.load(self._update(REFERENCE if REFERENCE in names else names[0], method))
        for line in lines:
            apart = np.linalg.norm(np.load(self._update(line.peer, method)) - reference)
            line.distance = float(apart / np.linalg.norm(reference))

    def _lines(self, method: str) -> list[Line]:
        return [line for line in self.lines if line.method == method]

    def _round(self, number: int) -> None:
        for method in self.plan.methods:
            for line in self._lines(method):
                if line.failed:
                    continue
                where = f"{self.net.name}, {method}: {line.peer}, {line.way}"
                self.tell(f"{where}, round {number + 1} of {self.plan.rounds}")
                question = {"time": [method, line.way], "seconds": self.plan.seconds}
                told = self._ask(line.peer, question)
                if "failed" in told:
                    line.failed = told["failed"]
                    self.tell(f"{where} fails: {line.failed}")
                else:
                    line.wall.append(told["wall"])
                    line.cpu.append(told["cpu"])

    def _drop_slow_settings(self) -> None:
        for method in self.plan.methods:
            lines = [line for line in self._lines(method) if line.family and line.wall]
            for line in lines:
                best = min(other.cpu[0] for other in lines if other.family == line.family)
                if line.cpu[0] > SLOW * best:
                    line.failed = SLOWER


SLOWER = f"over {SLOW} times as slow as its best setting"
