"""The command line: `polytape compare` and `polytape methods`. Keras is imported when needed."""

import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polytape import __version__

if TYPE_CHECKING:
    from polytape.contract import Method
    from polytape.diagnostics.records import Comparison

DEFAULT_METHODS = "sum,mgda,pcgrad,upgrad,imtlg,alignedmtl"
BACKENDS = ("tensorflow", "jax", "torch")  # in the order of preference

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
console = Console()


def main() -> None:
    """Entry point of the `polytape` command."""
    app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Several losses, several networks, one step."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def compare(
    problem: Annotated[
        str, typer.Argument(help="multidigits, toy, or your own as file.py:function.")
    ] = "multidigits",
    methods: Annotated[
        str, typer.Option(help="Comma-separated names; `polytape methods` lists them.")
    ] = DEFAULT_METHODS,
    seeds: Annotated[int, typer.Option(help="How many initialisations.")] = 2,
    epochs: Annotated[int, typer.Option(help="Passes over the data in each run.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("polytape-compare"),
    batch_size: Annotated[int | None, typer.Option(help="Instead of the problem's own.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, instead of the problem's own.")
    ] = None,
) -> None:
    """Train one model under several methods; a table and two pictures say what differs."""
    _check_numbers(seeds, epochs, batch_size, learning_rate)
    choose_backend(training=True)
    from polytape import compare as comparing
    from polytape import problems
    from polytape.reports.progress import LiveProgress

    try:
        chosen = _resolve(methods)
        task = problems.load(problem)
        out.mkdir(parents=True, exist_ok=True)
        with LiveProgress(console, epochs, task.objectives) as progress:
            found = comparing.compare(
                task,
                chosen,
                seeds=seeds,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                watch=progress,
                save=lambda so_far: so_far.save(out / "records.json"),
            )
    except (ValueError, TypeError, OSError) as error:
        _refuse(str(error))
    _show(found, out)
    if found.interrupted:
        raise typer.Exit(130)


@app.command("methods")
def list_methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """List the methods: what each needs, its natural scale, its guarantees and its source."""
    choose_backend(training=False)
    rows = _method_rows()
    if markdown:
        head = ("name", "title", "needs", "scale", "guarantees", "reference")
        typer.echo("| " + " | ".join(head) + " |\n|" + ":--|" * len(head))
        for row in rows:
            typer.echo("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for header in ("name", "needs", "scale", "guarantees", "what it does"):
        table.add_column(header, no_wrap=header in ("name", "needs", "scale"))
    for name, title, needs, scale, guarantees, reference in rows:
        about = f"{escape(title)}\n[dim]{escape(reference)}[/dim]"
        table.add_row(f"[bold]{name}[/bold]", needs, scale, guarantees, about)
    console.print(table)


def _method_rows() -> list[tuple[str, ...]]:
    from polytape.catalogue import all_methods

    rows = []
    for name, method in all_methods().items():
        title = (inspect.getdoc(method) or "").partition("\n")[0].rstrip(".")
        guarantees = ", ".join(sorted(method.guarantees)) or "–"
        scale = method.natural or "–"
        rows.append((name, title, method.needs, scale, guarantees, method.reference or "–"))
    return rows


# --------------------------------------------------------------------------- before training


def choose_backend(*, training: bool) -> None:
    """Settle `KERAS_BACKEND` before Keras is imported, and keep TensorFlow's log quiet.

    The user's variable comes first, then keras.json, then the first framework that is installed.
    Errors: exit code 2 and one line if none is.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" in sys.modules:
        return
    asked = os.environ.get("KERAS_BACKEND")
    if not training:
        os.environ["KERAS_BACKEND"] = asked or "numpy"  # nothing is trained: start fast
        return
    if asked == "numpy":
        _refuse("KERAS_BACKEND=numpy cannot train. Set it to tensorflow, jax or torch.")
    if asked and not _installed(asked):
        _refuse(
            f"KERAS_BACKEND={asked}, but {asked} is not installed. "
            f'Install it: pip install "polytape[{asked}]", or unset KERAS_BACKEND.'
        )
    preferred = asked or _configured()
    usable = [name for name in (preferred, *BACKENDS) if name in BACKENDS and _installed(name)]
    if not usable:
        _refuse(
            'Keras needs a framework to train with: pip install "polytape[tensorflow]" '
            "(or polytape[jax], polytape[torch])."
        )
    os.environ["KERAS_BACKEND"] = usable[0]


def _configured() -> str:
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return str(json.loads((home / "keras.json").read_text()).get("backend", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _installed(framework: str) -> bool:
    return importlib.util.find_spec(framework) is not None


def _check_numbers(
    seeds: int, epochs: int, batch_size: int | None, learning_rate: float | None
) -> None:
    whole = {"--seeds": seeds, "--epochs": epochs, "--batch-size": batch_size}
    for option, value in whole.items():
        if value is not None and value < 1:
            _refuse(f"{option} must be at least 1. Received: {value}.")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        _refuse(f"--learning-rate must be a positive number. Received: {learning_rate}.")


def _resolve(names: str) -> "dict[str, Method]":
    from polytape.catalogue import resolve

    found: dict[str, Any] = {}
    for name in filter(None, (name.strip() for name in names.split(","))):
        method = resolve(name)
        found[type(method).__name__] = method
    if not found:
        raise ValueError(f"--methods names no method. Received: {names!r}.")
    return found


def _refuse(message: str) -> NoReturn:
    typer.echo(" ".join(message.split()), err=True)
    raise typer.Exit(2)


# --------------------------------------------------------------------------- after training


def _show(found: "Comparison", out: Path) -> None:
    from polytape.reports import figures, tables

    for note in tables.notes(found):
        console.print(note, style="yellow", markup=False, highlight=False)
    if not found.runs:
        console.print("Nothing was finished, nothing is written.")
        return
    console.print()
    console.print(tables.terminal_table(found))
    console.print()
    console.print(tables.caption(found), style="dim", markup=False, highlight=False)
    found.save(out / "records.json")
    (out / "table.md").write_text(tables.markdown(found), encoding="utf-8")
    (out / "table.csv").write_text(tables.csv_text(found), encoding="utf-8")
    figures.curves(found, out / "curves.png")
    figures.tradeoff(found, out / "tradeoff.png")
    written = "records.json, table.md, table.csv, curves.png, tradeoff.png"
    console.print(f"\nWritten to {out}: {written}", markup=False, highlight=False, soft_wrap=True)
