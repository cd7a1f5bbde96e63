"""A live line for a running comparison, and the lines that it leaves behind."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from polytape.diagnostics.records import Run, Watch


class LiveProgress(Watch):
    """Shows the run, its epoch and its losses, as a context manager."""

    def __init__(self, console: Console, epochs: int, objectives: tuple[str, ...]) -> None:
        self.epochs = epochs
        self.objectives = objectives
        self._progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("loading the data", total=None)
        self._label = ""

    def __enter__(self) -> "LiveProgress":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def started(self, method: str, seed: int, total: int) -> None:
        self._label = f"[bold]{method}[/bold] seed {seed}"
        self._progress.update(
            self._task, total=total * self.epochs, description=f"{self._label}: compiling"
        )

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        losses = ", ".join(
            f"{name} {logs[f'{name}_loss']:.3g}"
            for name in self.objectives
            if f"{name}_loss" in logs
        )
        text = f"{self._label} epoch {number}/{self.epochs}: {losses}"
        self._progress.update(self._task, advance=1, description=text)

    def ended(self, run: Run) -> None:
        if run.status == "finished":
            text = f"[green]✓[/green] {run.method} seed {run.seed}"
        else:
            text = f"[red]✗[/red] {run.method} seed {run.seed} {run.status}"
        done = len(run.step_seconds)
        self._progress.update(self._task, advance=self.epochs - done)
        self._progress.console.print(f"{text} [dim]({run.seconds:.1f} s)[/dim]", highlight=False)
