"""The command line: `compare`, `explain`, `report`, `methods`. Keras is imported when needed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from polytape import __version__
from polytape.startup import choose_backend, quiet_frameworks
from polytape.streams import surviving_streams

if TYPE_CHECKING:
    from rich.table import Table

    from polytape.contract import Method
    from polytape.diagnostics.records import Comparison

MOST = {"--seeds": 1_000, "--epochs": 100_000}  # beyond it is a slip of the keyboard
DEFAULT_METHODS = "sum,pcgrad,upgrad,nashmtl,alignedmtl"

REMEDY = (
    'Install a framework for Keras, such as pip install "polytape[tensorflow]", '
    "or name another one in KERAS_BACKEND."
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
)
console = Console()


def main() -> None:
    """Entry point of the `polytape` command."""
    with surviving_streams():
        app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Several losses, several networks, one step."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command("compare")
def run_comparison(
    context: typer.Context,
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
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder of a comparison that was stopped: go on where it stood."),
    ] = None,
) -> None:
    """Train one model under several methods; a table, pictures and a page say what differs."""
    _check_numbers(seeds, epochs, batch_size, learning_rate)
    keep = Keeping(resume or out)
    with quiet_frameworks():
        try:
            choose_backend(training=True)
            if resume is None:
                found = _compare(problem, methods, seeds, epochs, keep, batch_size, learning_rate)
            else:
                found = _resume(keep, _said(context))
        except ImportError as error:
            _refuse(f"{error}. {REMEDY}")
        except (ValueError, TypeError, OSError) as error:
            _refuse(str(error))
    _show(found, keep)
    if found.interrupted:
        again = f"Go on with: polytape compare --resume {keep.out}"
        console.print(again, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130)
    if keep.failures or all(run.status != "finished" for run in found.runs):
        raise typer.Exit(1)


class Keeping:
    """Writes results into a folder. What cannot be written is told at the end and stops nothing."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: list[str] = []
        self.failures: dict[str, str] = {}

    def try_folder(self) -> None:
        """Make the folder and see, before anything is trained, whether it takes a file."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.out) as file:
                file.write(b"results")
        except OSError as error:
            raise ValueError(
                f"The results cannot be written to {self.out}: {error}. Name another folder, as "
                "in --out results."
            ) from error

    def refuse_unfinished(self) -> None:
        """A new comparison does not take the place of one that can be resumed."""
        from polytape.diagnostics.records import Comparison

        path = self.out / "records.json"
        if not path.is_file():
            return
        before = Comparison.load(path)
        if before.missing and before.runs:
            raise ValueError(
                f"{self.out} holds a comparison that was stopped, with {len(before.runs)} of "
                f"{len(before.planned)} runs made. Go on with it: polytape compare --resume "
                f"{self.out}; or name another folder, as in --out results; or delete it."
            )

    def set_aside(self) -> None:
        """Keep the record of an earlier comparison in the folder under another name."""
        path = self.out / "records.json"
        if path.is_file():
            os.replace(path, self.out / "records.previous.json")

    def write(self, name: str, writer: Callable[[Path], object]) -> None:
        """Have one file written; the same name again replaces what was said of it before."""
        self.failures.pop(name, None)
        try:
            writer(self.out / name)
        except Exception as error:  # a picture may fail in many ways, and the others count
            self.failures[name] = str(error).strip() or type(error).__name__
            return
        if name not in self.written:
            self.written.append(name)

    def tell(self) -> None:
        """What was written, and what was not, and why."""
        done = [name for name in self.written if name not in self.failures]
        if done:
            text = f"\nWritten to {self.out}: {', '.join(done)}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        for name, reason in self.failures.items():
            _complain(
                f"{name} could not be written to {self.out}: {reason}. Free space or allow "
                "writing there, or name another folder with --out."
            )


def _compare(
    problem: str,
    methods: str,
    seeds: int,
    epochs: int,
    keep: Keeping,
    batch_size: int | None,
    learning_rate: float | None,
) -> "Comparison":
    from polytape import problems
    from polytape.compare import compare
    from polytape.problems.registry import anywhere
    from polytape.reports.progress import LiveProgress

    chosen = _resolve(methods)
    task = problems.load(problem)
    keep.refuse_unfinished()
    keep.try_folder()

    def save(so_far: "Comparison") -> None:
        if not so_far.runs:
            keep.set_aside()
        keep.write("records.json", so_far.save)

    with LiveProgress(console, epochs, task.objectives) as progress:
        return compare(
            task,
            chosen,
            seeds=seeds,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            watch=progress,
            save=save,
            source=anywhere(problem),
        )


def _said(context: typer.Context) -> dict[str, Any]:
    """The words that were said on the command line, without those that are as usual."""
    return {
        name: value
        for name, value in context.params.items()
        if name != "resume" and _source(context, name) != "DEFAULT"
    }


def _source(context: typer.Context, name: str) -> str:
    """DEFAULT, COMMANDLINE, ...: by name, since the class is click's in some versions of Typer."""
    source = context.get_parameter_source(name)
    return source.name if source is not None else "DEFAULT"


def _resume(keep: "Keeping", said: dict[str, Any]) -> "Comparison":
    from polytape import resuming
    from polytape.compare import carry_out
    from polytape.reports.progress import LiveProgress

    plan = resuming.planned(keep.out)
    if "methods" in said:
        said["methods"] = _resolve(said["methods"])
    resuming.check_words(plan, keep.out, **said)
    harmless = resuming.check_environment(plan, keep.out)
    task = resuming.problem_of(plan, keep.out, said.get("problem"))
    for line in [*harmless, *resuming.changes(plan)]:
        _complain(line)
    methods = resuming.methods_of(plan)
    keep.try_folder()
    made = len(plan.planned) - len(plan.pending)
    console.print(f"{made} of {len(plan.planned)} runs are there already.", highlight=False)
    with LiveProgress(console, plan.epochs, task.objectives) as progress:
        return carry_out(
            plan,
            task,
            methods,
            watch=progress,
            save=lambda so_far: keep.write("records.json", so_far.save),
        )


@app.command("explain")
def run_explanation(
    function: Annotated[
        str,
        typer.Argument(
            help="As file.py:function; it returns (model, x, y) or (losses, variables)."
        ),
    ],
    by: Annotated[str, typer.Option(help="network, layer or variable.")] = "network",
    out: Annotated[
        Path | None, typer.Option(help="Folder for explanation.json, which `report` shows.")
    ] = None,
) -> None:
    """Say why a model is not learning: which gradient is missing, zero or not finite, and why."""
    if by not in ("network", "layer", "variable"):
        _refuse(f"--by is network, layer or variable. Received: {by}.")
    with quiet_frameworks():
        try:
            choose_backend(training=True)
            from polytape.explaining import explain
            from polytape.problems.registry import function_in

            subject = function_in(function)()
            given = subject if isinstance(subject, tuple) else (subject,)
            found = explain(*given)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                found.save(out / "explanation.json")
        except ImportError as error:
            _refuse(f"{error}. {REMEDY}")
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            _refuse(str(error))
    texts = {"network": found.__str__, "layer": found.by_layer, "variable": found.by_variable}
    typer.echo(texts[by]())
    if found.findings:
        raise typer.Exit(1)


@app.command("report")
def write_report(
    folder: Annotated[
        Path, typer.Argument(help="Of a comparison, of a monitored training, or of several.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file. Without it: report.html in the folder.")
    ] = None,
) -> None:
    """Write one HTML file that shows what a folder recorded; it opens from disk."""
    from polytape.reports.html import page, reading

    path = out or folder / page.FILE
    try:
        page.write(reading.read(folder), path, __version__)
    except ValueError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"The report cannot be written: {error}. Name a file, as in --out report.html.")
    typer.echo(f"Written to {path}.")


@app.command("methods")
def list_methods(
    name: Annotated[str, typer.Argument(help="One of them, in full.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write all of them as a Markdown page.")] = None,
) -> None:
    """List the methods: what each costs, promises and keeps; or print one in full."""
    try:
        with quiet_frameworks():
            choose_backend(training=False)
            from polytape.catalogue import find
            from polytape.reports import methods
            from polytape.reports.listing import entry, listing

            found = [entry(find(name))] if name else listing()
    except ImportError as error:
        _refuse(f"{error}. {REMEDY}")
    except ValueError as error:
        _refuse(str(error))
    if name:
        typer.echo(methods.specification(found[0]))
    elif out is not None:
        try:
            out.write_text(methods.page(found), encoding="utf-8")
        except OSError as error:
            _refuse(f"The page cannot be written: {error}. Name a file, as in --out methods.md.")
        typer.echo(f"Written to {out}.")
    else:
        console.print(methods.terminal(found, console.width))


# --------------------------------------------------------------------------- before training


def _check_numbers(
    seeds: int, epochs: int, batch_size: int | None, learning_rate: float | None
) -> None:
    whole = {"--seeds": seeds, "--epochs": epochs, "--batch-size": batch_size}
    for option, value in whole.items():
        if value is not None and value < 1:
            _refuse(f"{option} must be at least 1. Received: {value}.")
        if value is not None and value > MOST.get(option, value):
            _refuse(f"{option} must be at most {MOST[option]:,}. Received: {value}.")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        _refuse(f"--learning-rate must be a positive number. Received: {learning_rate}.")


def _resolve(names: str) -> "dict[str, Method]":
    from polytape.catalogue import resolve

    found: dict[str, Any] = {}
    for name in filter(None, (name.strip() for name in names.split(","))):
        try:
            method = resolve(name)
        except TypeError as error:
            raise ValueError(f"{name!r} cannot be named alone, it wraps others: {error}") from error
        found[type(method).__name__] = method
    if not found:
        raise ValueError(f"--methods names no method. Received: {names!r}.")
    return found


def _refuse(message: str) -> NoReturn:
    _complain(message)
    raise typer.Exit(2)


def _complain(message: str) -> None:
    """One line on standard error."""
    typer.echo(" ".join(message.split()), err=True)


# --------------------------------------------------------------------------- after training


def _show(found: "Comparison", keep: Keeping) -> None:
    from polytape.reports import figures, tables
    from polytape.reports.html import page, reading

    if not found.runs:
        console.print("Nothing was finished.")
        return
    keep.write("records.json", found.save)
    console.print()
    _print_whole(tables.terminal_table(found))
    console.print()
    console.print(tables.caption(found), style="dim", markup=False, highlight=False)
    for note in tables.notes(found):
        console.print(note, style="yellow", markup=False, highlight=False)

    def text(content: str) -> Callable[[Path], object]:
        return lambda path: path.write_text(content, encoding="utf-8")

    keep.write("table.md", text(tables.markdown(found)))
    keep.write("table.csv", text(tables.csv_text(found)))
    if any(run.status == "finished" for run in found.runs):
        keep.write("curves.png", lambda path: figures.curves(found, path))
        keep.write("tradeoff.png", lambda path: figures.tradeoff(found, path))
    keep.write(page.FILE, lambda path: page.write(reading.read(keep.out, found), path, __version__))
    keep.tell()


def _print_whole(table: "Table") -> None:
    """Print a table with all its columns: in a narrow terminal its lines go on in the next."""
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    Console(width=max(needed, console.width)).print(table)
