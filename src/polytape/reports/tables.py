"""The table of a comparison: for the terminal, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Iterable

from rich.table import Table

from polytape.diagnostics.records import Comparison
from polytape.reports.summary import Cell, Row, baseline, summarise

ARROWS = {"max": "↑", "min": "↓"}


def caption(comparison: Comparison) -> str:
    """What the columns mean, in full."""
    base = baseline(comparison)
    seeds = len(comparison.seeds)
    spread = " ± sample standard deviation" if seeds > 1 else ""
    return (
        f"Validation metrics after {_count(comparison.epochs, 'epoch')}, "
        f"mean over {_count(seeds, 'seed')}{spread}; "
        "↑ more is better, ↓ less is better; the best of a column is bold. "
        f"gain: mean over objectives of the relative improvement over {base}. "
        "conflict: mean over pairs of objectives of max(0, -cosine) between their gradients over "
        "the shared variables, measured on a fixed batch after each epoch; 0 means never opposed, "
        f"1 always. step: time of a training step relative to {base}, median over the epochs "
        "without the first."
    )


def headers(comparison: Comparison, separator: str = " ") -> list[str]:
    """Column titles; `separator` stands between an objective and its metric."""
    columns = [
        f"{objective}{separator}{metric} {ARROWS[goal]}"
        for objective, (metric, goal) in _headline(comparison)
    ]
    return ["method", *columns, "gain", "conflict", "step"]


def terminal_table(comparison: Comparison) -> Table:
    """For `rich.print`."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for header in headers(comparison, separator="\n"):
        table.add_column(header, justify="left" if header == "method" else "right", no_wrap=True)
    for _, cells in texts(comparison, bold=("[bold]", "[/bold]")):
        table.add_row(*cells)
    return table


def notes(comparison: Comparison) -> list[str]:
    """One line for each method that has something to explain, and for each run not made."""
    lines = [f"{row.method}: {row.note}" for row in summarise(comparison) if row.note]
    if comparison.missing:
        missing = ", ".join(f"{method} (seed {seed})" for method, seed in comparison.missing)
        lines.append(f"Not run: {missing}.")
    return lines


def markdown(comparison: Comparison) -> str:
    """The table with its caption and notes."""
    head = headers(comparison)
    lines = [
        f"# {comparison.problem}",
        "",
        comparison.description,
        "",
        "| " + " | ".join(head) + " |",
        "|:--|" + "--:|" * (len(head) - 1),
    ]
    for _, cells in texts(comparison, bold=("**", "**")):
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", caption(comparison), ""]
    lines += [f"* {note}" for note in notes(comparison)]
    settings = ", ".join(f"{key} {value}" for key, value in comparison.environment.items())
    lines += [
        "",
        f"Batch size {comparison.batch_size}, learning rate {comparison.learning_rate:g}; "
        f"{settings}.",
        "",
    ]
    return "\n".join(lines)


def csv_text(comparison: Comparison) -> str:
    """All numbers in full precision, one line a method; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ["method"]
    for objective, (metric, _) in _headline(comparison):
        columns += [f"{objective}_{metric}_mean", f"{objective}_{metric}_std"]
    writer.writerow([*columns, "gain_percent", "conflict", "step_ratio", "step_seconds", "note"])
    for row in summarise(comparison):
        cells: list[object] = [row.method]
        for objective in comparison.objectives:
            cell = row.cells[objective]
            cells += ["", ""] if cell is None else [cell.mean, _blank(cell.spread)]
        tail = (row.gain, row.conflict, row.cost, row.seconds, row.note)
        writer.writerow([*cells, *map(_blank, tail)])
    return out.getvalue()


def _headline(comparison: Comparison) -> list[tuple[str, tuple[str, str]]]:
    return [(objective, comparison.headline[objective]) for objective in comparison.objectives]


def texts(comparison: Comparison, bold: tuple[str, str]) -> list[tuple[Row, list[str]]]:
    """The rows with their cells as text; `bold` stands around the best of a column."""
    rows, base = summarise(comparison), baseline(comparison)
    places = {
        objective: decimals(cell.mean for row in rows if (cell := row.cells[objective]))
        for objective in comparison.objectives
    }
    found = []
    for row in rows:
        cells = [row.method]
        for objective in comparison.objectives:
            cells.append(_cell(row.cells[objective], places[objective], bold, row.note))
        cells.append("–" if row.gain is None or row.method == base else f"{row.gain:+.1f} %")
        cells.append("–" if row.conflict is None else f"{row.conflict:.2f}")
        cells.append("–" if row.cost is None else f"{row.cost:.1f}×")
        found.append((row, cells))
    return found


def _cell(cell: Cell | None, places: int, bold: tuple[str, str], note: str) -> str:
    if cell is None:
        return "diverged" if note.startswith("diverged") else "failed" if note else "–"
    text = f"{cell.mean:.{places}f}"
    if cell.spread is not None:
        text += f" ± {cell.spread:.{places}f}"
    return bold[0] + text + bold[1] if cell.best else text


def decimals(numbers: Iterable[float]) -> int:
    """Decimals that show three digits of the smallest number, within reason.

    >>> decimals([0.912, 0.874]), decimals([0.0312, 0.0298]), decimals([250.0])
    (3, 4, 0)
    """
    smallest = min((abs(number) for number in numbers if number), default=1.0)
    return min(max(2 - math.floor(math.log10(smallest)), 0), 6)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _blank(value: object) -> object:
    return "" if value is None else value
