"""What `pt.explain` found out, as plain data, and how it is printed."""

import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from polytape.diagnostics.advice import Advice, Measured, advise
from polytape.explanation.finding import Finding

WIDTH = 100  # where the output is no terminal
COSINES = 8  # objectives whose cosines are shown one by one
COLUMNS = 6  # places beside each other; more go into the rows
APART, OFF_ROUTE = "·", "○"


@dataclass(frozen=True)
class Cell:
    """The gradient of an objective by some variables.

    Args:
        norm: of the gradient, in loss / parameter; NaN if it is not finite
        share: of the update of these variables: <w g, d> / <d, d>, where d is the update and w the
            weight of this gradient in it; those of all objectives and of what is added add up to
            1. None where the update is no weighted sum of gradients, or unknown
        cosine: to the update; None where one of the two is zero
        reached: whether a differentiable path leads here
        routed: whether the objective may train these variables
    """

    norm: float
    share: float | None
    cosine: float | None
    reached: bool
    routed: bool

    @property
    def empty(self) -> bool:
        """Whether there is no path."""
        return not self.reached


@dataclass(frozen=True)
class Products:
    """Inner products of the gradients by each of V variables, float64.

    Args:
        rows: (V, T, T) of the gradients of the objectives with each other
        update: (V, T) with the update; zeros if it is unknown
        square: (V,) of the update with itself
        weights: (V, T) of the gradients in the update; NaN where it is no weighted sum of them
    """

    rows: np.ndarray
    update: np.ndarray
    square: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Why a model is learning, or not: objectives x networks, and what is wrong.

    Printed it is a table with, for each objective and network, the norm of the gradient, its share
    of the update and its cosine to it, the cosines between objectives, and under it every finding.

    Args:
        objectives: their names
        networks: their names
        method: what combines the gradients; "" if nothing was said of it
        losses: {objective: value}
        paths: of the variables
        owners: the network of each variable
        layers: the layer of each variable
        reach: (T, V) bool: which objective has a differentiable path to which variable
        routes: (T, V) bool: which may train which
        products: of the gradients
        findings: what is wrong, the gravest first
    """

    objectives: tuple[str, ...]
    networks: tuple[str, ...]
    method: str
    losses: dict[str, float]
    paths: tuple[str, ...]
    owners: tuple[str, ...]
    layers: tuple[str, ...]
    reach: np.ndarray
    routes: np.ndarray
    products: Products
    findings: tuple[Finding, ...] = field(default=())

    @property
    def advice(self) -> list[Advice]:
        """What to try, where the figures of this batch give a reason; often nothing."""
        norms = np.sqrt(self._gramian(range(len(self.paths))).diagonal())
        places = {
            layer: self._cosines([v for v, each in enumerate(self.layers) if each == layer])[None]
            for layer in dict.fromkeys(self.layers)
        }
        shares = [self._cell(t, self._shared()).share for t in range(len(self.objectives))]
        known = [np.nan if share is None else share for share in shares]
        losses = [self.losses[name] for name in self.objectives]
        together, update = self.products.rows[self._shared()].sum(), self._square()
        stretch = np.sqrt(update / together) if together > 0 and self.method else np.nan
        return advise(
            Measured(
                objectives=self.objectives,
                method=self.method,
                norms=norms[None],
                cosines=self.cosines()[None],
                shares=np.array([known]),
                losses=np.array([losses]),
                places=places,
                stretch=np.array([stretch]),
            )
        )

    def _shared(self) -> list[int]:
        """Variables that two or more objectives train."""
        return np.flatnonzero((self.reach & self.routes).sum(axis=0) >= 2).tolist()

    def _square(self) -> float:
        """Of the update over the shared variables, with itself."""
        return float(self.products.square[self._shared()].sum())

    def _gramian(self, among: Sequence[int]) -> np.ndarray:
        """(T, T) inner products over those of some variables that are shared."""
        shared = {*self._shared()}
        return np.asarray(self.products.rows[[v for v in among if v in shared]].sum(axis=0))

    def _cosines(self, among: Sequence[int]) -> np.ndarray:
        gramian = self._gramian(among)
        length = np.sqrt(np.diagonal(gramian))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(gramian / length[:, None] / length[None, :])

    # ------------------------------------------------------------------ numbers

    def cell(self, objective: str, network: str) -> Cell:
        """The gradient of an objective by the variables of a network.

        Args:
            objective: its name
            network: its name

        Returns:
            Norm, share and cosine.

        Raises:
            KeyError: If there is no such objective or network.
        """
        if objective not in self.objectives or network not in self.networks:
            raise KeyError(
                f"No cell {objective!r} x {network!r}. Objectives: {', '.join(self.objectives)}; "
                f"networks: {', '.join(self.networks)}."
            )
        own = [v for v, owner in enumerate(self.owners) if owner == network]
        return self._cell(self.objectives.index(objective), own)

    def cosines(self, network: str | None = None) -> np.ndarray:
        """Between the gradients of the objectives, over variables that two or more of them reach.

        Args:
            network: over those of one network; None: over all

        Returns:
            (T, T) float64; NaN beside a gradient that is zero or not finite.
        """
        owners = enumerate(self.owners)
        return self._cosines([v for v, owner in owners if network in (None, owner)])

    def _cell(self, objective: int, own: Sequence[int]) -> Cell:
        places = np.array(own, int)
        reached = self.reach[objective, places]
        routed = self.routes[objective, places]
        both = places[reached & routed]
        square = float(self.products.rows[both, objective, objective].sum())
        whole = float(self.products.square[places].sum())
        with_update = self.products.update[both, objective]
        parts = self.products.weights[both, objective] * with_update
        share = cosine = None
        if whole > 0 and math.isfinite(whole):
            share = None if np.isnan(parts).any() else float(parts.sum()) / whole
            over_own = float(self.products.square[both].sum())
            if square > 0 and math.isfinite(square) and over_own > 0:
                cosine = float(with_update.sum()) / math.sqrt(square * over_own)
        norm = math.sqrt(square) if math.isfinite(square) else math.nan
        return Cell(norm, share, cosine, bool(reached.any()), bool(routed.any()))

    # ------------------------------------------------------------------ text

    def __str__(self) -> str:
        return self._text("network", self.owners)

    def __repr__(self) -> str:
        return str(self)

    def by_layer(self) -> str:
        """The same table with layers instead of networks.

        Returns:
            Text of several lines.
        """
        return self._text("layer", self.layers)

    def by_variable(self) -> str:
        """The same table with variables instead of networks.

        Returns:
            Text of several lines.
        """
        return self._text("variable", self.paths)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON: norms, shares and cosines by objective and network, and findings.

        Returns:
            Nests of str, float, bool and None; what is not finite is None.
        """
        cells = {
            objective: {
                network: {
                    "norm": _number(cell.norm),
                    "share": _number(cell.share),
                    "cosine": _number(cell.cosine),
                    "reached": cell.reached,
                    "routed": cell.routed,
                }
                for network in self.networks
                for cell in (self.cell(objective, network),)
            }
            for objective in self.objectives
        }
        return {
            "objectives": list(self.objectives),
            "networks": list(self.networks),
            "method": self.method,
            "losses": {name: _number(loss) for name, loss in self.losses.items()},
            "cells": cells,
            "cosines": [[_number(each) for each in row] for row in self.cosines()],
            "findings": [finding.as_dict() for finding in self.findings],
            "advice": [asdict(each) for each in self.advice],
        }

    def save(self, path: Any) -> None:
        """Write `as_dict` as JSON.

        Args:
            path: of the file
        """
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.as_dict(), file, allow_nan=False, indent=1)

    def _text(self, what: str, owners: Sequence[str]) -> str:
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        places = list(dict.fromkeys(owners))
        cells = {
            place: [
                self._cell(t, [v for v, owner in enumerate(owners) if owner == place])
                for t in range(len(self.objectives))
            ]
            for place in places
        }
        parts = [
            f"{_count(len(self.objectives), 'objective')}, {_count(len(places), what)}"
            + f", combined by {self.method}" * bool(self.method)
        ]
        parts.append(self._table(what, cells, width))
        if len(self.objectives) > 1:
            parts.append(self._conflicts(width))
        parts.append(self._found())
        parts += [f"Advice: {each}." for each in self.advice]
        return "\n\n".join(part for part in parts if part)

    def _table(self, what: str, cells: dict[str, list[Cell]], width: int) -> str:
        """Objectives in rows if that fits, else the places."""
        losses = [f"{self.losses[name]:.3g}" for name in self.objectives]
        brief = len(self.objectives) > COSINES
        texts = {place: [_shown(cell, brief) for cell in column] for place, column in cells.items()}
        wide = sum(3 + max(len(place), *map(len, column)) for place, column in texts.items())
        head = max(map(len, self.objectives)) + 14
        if len(texts) <= COLUMNS and head + wide <= width:
            columns = [("objective", list(self.objectives)), ("loss", losses), *texts.items()]
        else:
            columns = [(what, list(texts))]
            columns += [
                (name, [column[t] for column in texts.values()])
                for t, name in enumerate(self.objectives)
            ]
        legend = "norm of the gradient, its share of the update, its cosine to the update"
        if brief:
            legend = "norm of the gradient; .cell(objective, network) has more"
        signs = {APART: "no path", OFF_ROUTE: "reached, but not on its route"}
        used = [
            f"{sign} {meaning}"
            for sign, meaning in signs.items()
            if any(text == sign for column in texts.values() for text in column)
        ]
        return _rendered(columns, width) + "\n" + "   ".join([legend, *used])

    def _conflicts(self, width: int) -> str:
        cosines = self.cosines()
        if np.isnan(cosines).all():
            return "No variable is shared: the objectives cannot be in conflict."
        if len(self.objectives) <= COSINES:
            columns: list[tuple[str, list[str]]] = [("cosine", list(self.objectives))]
            columns += [
                (name, [_cosine(cosines[t, other]) for t in range(len(self.objectives))])
                for other, name in enumerate(self.objectives)
            ]
            return _rendered(columns, width)
        apart = np.where(np.eye(len(cosines), dtype=bool) | np.isnan(cosines), np.inf, cosines)
        worst = [int(np.argmin(row)) for row in apart]
        return _rendered(
            [
                ("objective", list(self.objectives)),
                ("lowest cosine", [_cosine(apart[t, other]) for t, other in enumerate(worst)]),
                ("with", [self.objectives[other] for other in worst]),
            ],
            width,
        )

    def _found(self) -> str:
        if not self.findings:
            return "Nothing is wrong: every gradient that should be there is there."
        told: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            told.setdefault((finding.objective, finding.kind, finding.told), []).append(finding)
        lines = []
        for number, ((objective, kind, text), alike) in enumerate(told.items(), 1):
            networks = ", ".join(repr(each.network) for each in alike if each.network)
            who = " x ".join(filter(None, [repr(objective) if objective else "", networks]))
            paths = [path for finding in alike for path in finding.variables]
            lines.append(f"{number}. {who + ': ' if who else ''}{kind}. {text}")
            if paths:
                more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
                lines.append(f"   Variables: {', '.join(paths[:3])}{more}.")
            if alike[0].remedy:
                lines.append(f"   {alike[0].remedy}")
        return "\n".join(lines)


def _shown(cell: Cell, brief: bool) -> str:
    """brief: whether there is room for the norm only"""
    if not cell.reached:
        return APART
    if not cell.routed:
        return OFF_ROUTE
    parts = ["not finite" if math.isnan(cell.norm) else f"{cell.norm:.2e}" if cell.norm else "0"]
    if brief:
        return parts[0]
    if cell.share is not None:
        parts.append(f"{100 * cell.share:.0f} %")
    if cell.cosine is not None:
        parts.append(f"{cell.cosine:+.2f}")
    return "  ".join(parts)


def _cosine(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else APART


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


Column = tuple[str, list[str]]


def _rendered(columns: Sequence[Column], width: int) -> str:
    """As many tables as it takes for none to be wider than that, each with the first column."""
    key, tables = columns[0], [[columns[0]]]
    for column in columns[1:]:
        if len(tables[-1]) > 1 and _wide([*tables[-1], column]) > width:
            tables.append([key])
        tables[-1].append(column)
    return "\n\n".join(_one_table(table, width) for table in tables)


def _wide(columns: Sequence[Column]) -> int:
    return sum(max(map(len, [title, *cells])) + 3 for title, cells in columns)


def _one_table(columns: Sequence[Column], width: int) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, _ in columns:
        table.add_column(title, no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    console = Console(width=max(width, _wide(columns)), record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())
