"""The command.

python -m benchmarks.peers                        # writes docs/peers.md and docs/peers.svg
python -m benchmarks.peers --quick                # two or three minutes, shown only
python -m benchmarks.peers --nets lenet-2,resnet-3 --methods upgrad,mgda --rounds 9
python -m benchmarks.peers --device gpu           # on a machine with CUDA
"""

import itertools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.peers import methods, nets, page, picture
from benchmarks.peers.contender import all_peers
from benchmarks.peers.runner import Found, Plan, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
QUICK = ("tiny-mlp-4", "lenet-2")
FILES = ("--records", "--add", "--out")  # options that tell where, not what
FILES_SET = tuple(f"{option}=" for option in FILES)

console = Console(stderr=True)


def main(
    only: Annotated[str, typer.Option("--nets", help="Which nets, by commas.")] = "",
    chosen: Annotated[
        str, typer.Option("--methods", help=f"Of {', '.join(methods.METHODS)}.")
    ] = ",".join(methods.DEFAULT),
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each contender.")] = 9,
    seconds: Annotated[float, typer.Option(help="Of a turn, about.")] = 0.2,
    limit: Annotated[float, typer.Option(help="Minutes after which no net is begun.")] = 90.0,
    device: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    cores: Annotated[int, typer.Option(help="Of each process; 0: all.")] = 0,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu where others use the machine, with --cores 1.")
    ] = "wall",
    quick: Annotated[bool, typer.Option("--quick", help="Two nets, UPGrad, few turns.")] = False,
    records: Annotated[Path | None, typer.Option(help="Keep all figures here, as JSON.")] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing: the page of such a file.")
    ] = None,
    add: Annotated[
        Path | None, typer.Option(help="Such a file of other nets or methods, for one page.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where peers.md and its picture go.")] = DOCS,
) -> None:
    """Compare polytape with its peers, and write docs/peers.md."""
    if quick:
        only, chosen, rounds, seconds = only or ",".join(QUICK), "upgrad", 3, 0.1
    if again:
        found = Found.load(again)
    else:
        if clock == "cpu" and device == "gpu":
            raise typer.BadParameter(
                "a processor's time tells nothing of a GPU.", param_hint="--clock"
            )
        plan = Plan(
            nets=_known(only, nets.KNOWN, "--nets") or nets.NETS,
            methods=[
                name for name in chosen.split(",") if _known(name, methods.METHODS, "--methods")
            ],
            peers=all_peers(),
            rounds=rounds,
            seconds=seconds,
            limit=60 * limit,
            device=_one_of(device, ("cpu", "gpu"), "--device"),
            cores=cores,
            clock=_one_of(clock, ("wall", "cpu"), "--clock"),
            command=_command(sys.argv[1:]),
        )
        found = _measured(plan, records)
    if add:
        found = Found.load(add).with_more(found)
    if records:
        found.save(records)
    typer.echo(page.summary(found))
    if not quick:
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.md").write_text(page.page(found))
        picture.draw(found, out / "peers.svg")
        console.print(f"written: {out / 'peers.md'}, {out / 'peers.svg'}")


def _measured(plan: Plan, records: Path | None) -> Found:
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    for peer in plan.peers:
        if peer.missing:
            missing = ", ".join(peer.missing)
            console.print(f"{peer.name} is left out, without {missing}: {peer.pip}", markup=False)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(what: str) -> None:
            progress.update(task, description=what)
            if " fails: " in what:
                progress.console.print(what, markup=False)

        def keep(found: Found, net: nets.Net) -> None:
            if records:
                found.save(records)
            progress.console.print(f"{net.name} done", highlight=False)

        return run(plan, tell, keep)


def _command(arguments: list[str]) -> str:
    """As it was typed, without where files are."""
    shown = ["python -m benchmarks.peers"]
    for before, word in itertools.pairwise(["", *arguments]):
        if word not in FILES and before not in FILES and not word.startswith(FILES_SET):
            shown.append(word)
    return " ".join(shown)


def _known(names: str, known: dict[str, Any], option: str) -> list[Any]:
    wanted = [name for name in names.split(",") if name]
    strange = [name for name in wanted if name not in known]
    if strange:
        raise typer.BadParameter(
            f"{', '.join(strange)}: there is {', '.join(known)}.", param_hint=option
        )
    return [known[name] for name in wanted]


def _one_of(value: str, known: tuple[str, ...], option: str) -> Any:
    if value not in known:
        raise typer.BadParameter(f"{value}: {' or '.join(known)}.", param_hint=option)
    return value


if __name__ == "__main__":
    typer.run(main)
