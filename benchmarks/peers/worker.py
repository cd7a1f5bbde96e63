"""The process of a contender: trains one net by the methods that it is told, and measures.

    python -m benchmarks.peers.worker PEER NET DEVICE CORES

Questions and answers are lines of JSON. {"build": method, "update": file} makes the first step and
keeps its change of the weights in the file; {"time": [method, way], "seconds": s} makes steps for
about so long, and gives the seconds of one: on the clock, and of all threads of this process.
"""

import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks.peers.contender import Peer, Training, all_peers
from benchmarks.peers.devices import Machine, confine
from benchmarks.peers.nets import KNOWN, Net, flat
from benchmarks.processes import answer, questions

# The first step's, so that the update is not lost in the rounding of weights; and all others'.
WHOLE, SMALL = 1.0, 1e-4
FEWEST, MOST = 2, 400  # steps of a turn
EPOCH = 5  # steps of an epoch, at least


class Measuring:
    """All that one process has in training."""

    def __init__(self, peer: Peer, net: Net, machine: Machine) -> None:
        self.peer, self.net, self.machine = peer, net, machine
        self.trainings: dict[str, Training] = {}
        self._steps: dict[tuple[str, str], int] = {}

    def build(self, method: str, update: str) -> dict[str, Any]:
        """Seconds of the first step, and what it changed; the memory of later ones, by way."""
        training = self.peer.make(self.net, method, WHOLE, self.machine)
        before = flat(training.read())
        first, *_ = training.ways.values()
        start = time.perf_counter()
        first(1)
        seconds = time.perf_counter() - start
        np.save(update, before - flat(training.read()))
        training.restore(SMALL)
        self.trainings[method] = training
        memory = {}
        for name, way in training.ways.items():
            way(1)  # what is kept between steps is there from now on
            memory[name] = self.machine.peak(lambda way=way: way(2))
        return {"first": seconds, "memory": memory}

    def time(self, method: str, way: str, seconds: float) -> dict[str, Any]:
        """Seconds of a step, in a turn of about so many seconds."""
        run, steps = self.trainings[method].ways[way], self._steps_of(method, way, seconds)
        run(1)  # caches are cold after a pause
        spent = run(steps)
        return {"wall": spent.wall / steps, "cpu": spent.cpu / steps}

    def _steps_of(self, method: str, way: str, seconds: float) -> int:
        """How many steps a turn has, found out once; what an epoch costs is shared by several."""
        epochs = self.trainings[method].epochs
        if way in epochs:
            return max(EPOCH, self._steps_of(method, epochs[way], seconds))
        if (method, way) not in self._steps:
            run = self.trainings[method].ways[way]
            run(FEWEST)
            steps = round(seconds * FEWEST / run(FEWEST).wall)
            self._steps[method, way] = min(max(FEWEST, steps), MOST)
        return self._steps[method, way]


def main(peer: str, net: str, device: Any, cores: str = "0") -> None:
    confine(int(cores))
    contender = next(found for found in all_peers() if found.name == peer)
    try:
        machine = Machine(contender.framework, device)
    except RuntimeError as error:
        answer(json.dumps({"failed": str(error)}))
        return
    measuring = Measuring(contender, KNOWN[net], machine)
    answer(json.dumps({"device": machine.name}))
    for line in questions():
        order = json.loads(line)
        try:
            if "build" in order:
                found = measuring.build(order["build"], order["update"])
            else:
                found = measuring.time(*order["time"], order["seconds"])
        except Exception as error:  # told, in the table: others go on
            lines = str(error).strip().splitlines()
            found = {"failed": f"{type(error).__name__}: {lines[0] if lines else ''}"}
        answer(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
