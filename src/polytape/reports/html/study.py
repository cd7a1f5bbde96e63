"""What a report is about, wherever it was recorded: runs, and what was measured in them."""

import dataclasses
from typing import Any, Literal

from polytape.diagnostics.advice import Advice
from polytape.diagnostics.monitor_records import MonitorRun
from polytape.diagnostics.records import Comparison
from polytape.reports.html.sampling import Series

Quantity = Literal["learning", "loss", "norm", "weight", "share"]
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Track:
    """One run: a method under one seed, or one monitored training.

    method  that it belongs to, as the legend calls it
    name    what tells it from the others of that method
    curves  {quantity: {objective: its numbers over time}}; where each network has weights or
            shares of its own, by "objective in network"
    pairs   {(a, b): cosine of the gradients over time}
    parts   {layer or network: how opposed the gradients in it are, over time}
    ends    {objective: headline number at the end}; empty if there is none to compare
    """

    method: str
    name: str
    curves: dict[Quantity, dict[str, Series]]
    pairs: dict[Pair, Series]
    parts: dict[str, Series]
    ends: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `pt.explain` had to say, as text or as data.

    name      of the folder it lay in; "" for that of the report
    cells     rows of a table objectives x networks, the head first
    findings  (who and what, the rest) of each thing that is wrong
    verdict   what is said in the place of findings; "" if nothing is known of any
    """

    name: str
    text: str = ""
    cells: list[list[str]] = dataclasses.field(default_factory=list)
    findings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """What a report tells.

    headline      {objective: (metric, "max" or "min")} of "learning" and of `ends`
    clock         {quantity, "pairs" or "parts": "epoch" or "step"}
    measured      what the cosines and norms were measured on, in words
    settings      (what, its settings) in the order of the page
    environments  each once; one if all runs were made alike
    comparison    the record, if there is one
    monitors      {name of a run: its record}
    advice        (name of a run, what to try)
    notes         of what is missing, torn or failed
    """

    title: str
    description: str
    objectives: tuple[str, ...]
    methods: tuple[str, ...]
    base: str
    headline: dict[str, tuple[str, str]]
    clock: dict[str, str]
    measured: str
    tracks: list[Track]
    settings: list[tuple[str, dict[str, Any]]]
    environments: list[dict[str, str]]
    comparison: Comparison | None = None
    monitors: dict[str, MonitorRun] = dataclasses.field(default_factory=dict)
    explanations: list[Explanation] = dataclasses.field(default_factory=list)
    advice: list[tuple[str, Advice]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def of(self, method: str) -> list[Track]:
        """The runs of one method, in order."""
        return [track for track in self.tracks if track.method == method]
