"""The catalogue of methods: for the terminal, one method in full, and as a Markdown page."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from polytape.reports.listing import Entry

TICKS = {  # and the letter of each
    "non-conflicting": "n",
    "impartial": "i",
    "stationary": "s",
    "permutation": "p",
    "scale-free": "f",
}
FIRST = ("losses", "gramian")  # of the sections
STAGES = ("Stages and wrappers", "links of a pt.Chain, and methods around others")
LEGEND = (
    ("cost", "of a step in passes through the network: F forward, B backward, T objectives"),
    ("state", "numbers kept from step to step and saved with the model, whose variables have N"),
    ("scale", "published weights of equal gradients: one each (sum), or one in all (mean)"),
    ("non-conflicting", "no loss rises to first order"),
    ("impartial", "multiplying one loss by a number does not turn the update"),
    ("stationary", "no update where a positive combination of the gradients is zero"),
    ("permutation", "the order of the objectives does not matter"),
    ("scale-free", "multiplying all losses by a number does not turn the update"),
)


def sections(entries: Sequence["Entry"]) -> Iterator[tuple[str, str, list["Entry"]]]:
    """(title, what it costs, entries) of each section that has any.

    Methods are under the dearest kind of evidence that they read.
    """
    methods = [entry for entry in entries if not entry.stage]
    kinds = dict.fromkeys((*FIRST, *sorted({entry.needs for entry in methods})))
    for kind in kinds:
        found = [entry for entry in methods if entry.needs == kind]
        if found:
            yield found[0].title, found[0].passes, found
    if stages := [entry for entry in entries if entry.stage]:
        yield *STAGES, stages


def _ticks(entry: "Entry") -> str:
    return "".join(p if name in entry.passed else "·" for name, p in TICKS.items())


def terminal(entries: Sequence["Entry"], width: int) -> RenderableType:
    """For `rich.print`: one table a section, its columns in line with the others'."""
    wide = width >= 140
    fixed = [max(len(getattr(e, field)) for e in entries) for field in ("name", "state")]
    parts: list[RenderableType] = []
    for title, cost, found in sections(entries):
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column("", width=fixed[0], no_wrap=True, style="bold")
        for head, room in (("laws", 8), ("scale", 5), ("state", fixed[1])):
            table.add_column(head, width=room, no_wrap=True)
        table.add_column("", width=(width - 51) * 3 // 5 if wide else None)
        if wide:
            table.add_column("")
        for e in found:
            cells = [e.name, _ticks(e), e.native_scale, e.state, escape(e.summary)]
            source = f"[dim]{escape(_source(e))}[/dim]"
            if wide:
                cells.append(source)
            elif _source(e):
                cells[-1] += "\n" + source
            table.add_row(*cells)
        parts += [Text.from_markup(f"[bold]{title}[/bold] [dim]({cost})[/dim]"), table, Text()]
    parts.append(_legend())
    return Group(*parts)


def _source(entry: "Entry") -> str:
    """Where it comes from, and its cost where the section's title does not tell."""
    special = entry.stage or entry.cost.startswith("2 F") or entry.cost.endswith("in turn")
    dearer = f"costs {entry.cost}" if special and entry.cost != "inner" else ""
    return "; ".join(filter(None, (entry.reference.strip("–"), dearer)))


def _legend() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for word, meaning in LEGEND:
        letter = f"[bold]{TICKS[word]}[/bold]  " if word in TICKS else ""
        table.add_row(letter + word, meaning, style="dim")
    table.add_row()
    table.add_row("[bold]polytape methods NAME[/bold]", "prints the specification of one")
    return table


def specification(entry: "Entry") -> str:
    """One method in full, as plain text."""
    kept = [p for p in TICKS if p in entry.passed]
    facts = {
        "needs": entry.needs,
        "cost": entry.cost,
        "state": entry.state,
        "scale": entry.native_scale,
        "laws": ", ".join(kept) or "–",
        "reference": entry.reference,
    }
    lines = [f"pt.{entry.name}", "", entry.specification, ""]
    fields = [(f"{name} = {d}" if d else name, rule) for name, d, rule in entry.settings]
    room = max((len(field) for field, _ in fields), default=0)
    lines += [f"  {field:<{room}}  {rule}".rstrip() for field, rule in fields]
    lines += [""] * bool(fields)
    lines += [f"  {word:<10} {fact}" for word, fact in facts.items()]
    return "\n".join(lines)


def page(entries: Sequence["Entry"]) -> str:
    """The page of methods, in Markdown."""
    lines = [
        "# Methods and stages",
        "",
        f"{sum(not e.stage for e in entries)} methods and {sum(e.stage for e in entries)} stages. "
        "Made by `polytape methods --out docs/methods.md` from the classes themselves; "
        "`polytape methods NAME` prints the specification of one: formula, hyper-parameters, "
        "special cases, departures from published code.",
        "",
        *(f"* *{word}*: {meaning}" for word, meaning in LEGEND),
        "",
        "A tick is a law that the method, with its defaults, passed when it was tried on rows "
        "built to be difficult. Wrappers keep what the method inside them keeps.",
    ]
    head = ["", *TICKS, "scale", "state", "cost", "", "source"]
    for title, cost, found in sections(entries):
        lines += ["", f"## {title}", "", f"{cost[0].upper()}{cost[1:]}.", ""]
        lines += ["| " + " | ".join(head) + " |"]
        lines += ["|:--|" + ":-:|" * len(TICKS) + ":--|" * 5]
        for e in found:
            path = f"../src/{e.module.replace('.', '/')}.py"
            ticks = ["✓" if law in e.passed else "" for law in TICKS]
            cells = [f"[{e.name}]({path})", *ticks, e.native_scale, e.state, e.cost]
            cells += [e.summary.replace("|", "\\|"), e.reference.replace("|", "\\|")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
