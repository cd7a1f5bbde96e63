"""docs/peers.md, from the records of a run."""

from collections.abc import Iterator

from benchmarks import common
from benchmarks.peers.methods import METHODS, TOLERANCE
from benchmarks.peers.nets import KINDS
from benchmarks.peers.ratios import Case, cases, ratio, spread, times
from benchmarks.peers.runner import Found, Line

# Columns of the summary: a title, the contender and its way.
COLUMNS = (
    ("JAX, step", "polytape jax", "step"),
    ("JAX, fit", "polytape jax", "fit"),
    ("TensorFlow, step", "polytape tensorflow", "step"),
    ("TensorFlow, fit", "polytape tensorflow", "fit"),
    ("PyTorch, step", "polytape torch", "step"),
    ("PyTorch, fit", "polytape torch", "fit"),
    ("PyTorch, loop", "polytape torch, loop", "loop"),
    ("LibMTL-style", "LibMTL-style loop", "loop"),
    ("conflictfree", "conflictfree", "loop"),
)
LARGER = ("wide-mlp", "lenet", "resnet", "transformer")


def page(found: Found) -> str:
    about = found.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"""# Beside TorchJD and others

`python -m benchmarks.peers` writes this page. It trains the same nets with polytape on each
backend, with TorchJD, in a loop as LibMTL and its kin write it, and with conflictfree: same shapes,
batch, first weights, float32, SGD. To repeat it:

```bash
pip install -e ".[dev,tensorflow,jax,torch]"
python -m benchmarks.peers              # --quick, --nets, --methods, --device gpu: see --help
```

What stands here was measured by

```bash
{about["command"].replace("; ", chr(10))}
```

{_circumstances(found)}
Python {about["python"]}, {versions}.

![Time of a step in units of TorchJD's](peers.svg)

## Time of a step, in units of TorchJD's

{_explained(found)}

{summary(found)}

{_aims(found)}

## Do they compute the same?

{_same(found)}

## All figures

* *ms*: median of a step, and its quartiles over the rounds. *ratio*: to the fastest setting of
  TorchJD, median and middle half of the ratios round by round.
* *memory*: the peak of a step above what is held between steps, MiB
  {_memory_words(found)}.
* *first*: seconds of the first step, with tracing and compilation.
* *update*: how far the change of the weights in that step is from the reference's, relative.

{_details(found)}
"""


def summary(found: Found) -> str:
    """One line for each net and method; the smallest ratio of polytape's in bold."""
    rows = []
    for case in cases(found):
        known = {title: _found(found, case, title) for title, *_ in COLUMNS}
        own = [value for title, value in known.items() if value and title in OWN]
        cells = [
            _ratio_cell(value, value is not None and value == min(own, default=None))
            for value in known.values()
        ]
        base = case.base
        milliseconds = f"{1e3 * spread(times(found, base)).middle:.2f}" if base else ""
        rows.append([case.net, str(case.tasks), case.method, milliseconds, *cells])
    header = ["net", "T", "method", "TorchJD, ms", *(title for title, *_ in COLUMNS)]
    return common.table(header, rows)


OWN = {title for title, peer, _ in COLUMNS if peer.startswith("polytape")}


def _ratio_cell(value: float | None, best: bool) -> str:
    if value is None:
        return ""
    shown = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"**{shown}**" if best else shown


def _found(found: Found, case: Case, title: str) -> float | None:
    """The ratio of a column."""
    wanted = next((peer, way) for name, peer, way in COLUMNS if name == title)
    for line in case.lines:
        if (line.peer, line.way) == wanted:
            figures = ratio(found, case, line)
            return figures.middle if figures else None
    return None


def _circumstances(found: Found) -> str:
    about = found.about
    devices = sorted(set(about["devices"].values()))
    where = about["processor"] if about["device"] == "cpu" else ", ".join(devices)
    cores = "one core" if about["cores"] == 1 else f"{about['cores']} cores"
    words = [f"{about['day']}, {where}, {cores} for each process."]
    if about["load"]:
        low, high = min(about["load"]), max(about["load"])
        words.append(f"The load of the machine was {low:.1f} to {high:.1f}.")
        if high > about["cores"] + 1:
            words.append("Others worked on it, too: ratios tell more than milliseconds.")
    if about["clock"] == "cpu":
        words.append(
            "Time is processor time, of all threads of a process: others disturb it less than time "
            "on the clock."
        )
    words += [f"{name} was not installed: `{pip}`." for name, pip in about["not installed"].items()]
    if about["not measured"]:
        words.append(f"Not measured, for want of time: {', '.join(about['not measured'])}.")
    return "\n".join(words)


def _explained(found: Found) -> str:
    turns = {len(times(found, line)) for line in found.lines if line.wall and not line.failed}
    rounds = " to ".join(str(count) for count in sorted({min(turns), max(turns)}))
    nets = dict.fromkeys(case.net for case in cases(found))
    methods = dict.fromkeys(case.method for case in cases(found))
    return "\n".join(
        [
            f"Each contender has a process of its own for each net; they work by turns, "
            f"{rounds} rounds of",
            f"about {found.about['seconds']:g} s. A figure is the median of the ratios within a "
            "round: below 1 it is faster than the",
            "fastest of TorchJD's settings, `mtl_backward` (per example `backward`) with "
            "`jac_to_grad`, all objectives",
            "at once or one by one, or `autogram.Engine`. *step* is the compiled step of `fit`, "
            "*fit* an epoch of `fit`",
            "out of arrays, *loop* `pt.gradients` and a `pt.Combiner` on the PyTorch modules that "
            "the other loops train.",
            "In bold: polytape's best.",
            "",
            *(f"* *{name}*: {KINDS[name]}." for name in nets),
            "",
            *(f"* *{name}*: {METHODS[name]}." for name in methods),
        ]
    )


# ------------------------------------------------------------------ aims


def _aims(found: Found) -> str:
    rows = [row for row in _aim_rows(found) if row]
    if not rows:
        return ""
    text = common.table(["aim", "at most", "found", ""], rows)
    return f"## What we aim at\n\nWith upgrad and mgda; of several figures the largest.\n\n{text}"


def _aim_rows(found: Found) -> Iterator[list[str]]:
    def tiny(case: Case, tasks: int) -> bool:
        return case.net == "tiny-mlp" and case.tasks == tasks

    for tasks, limit in ((4, 0.33), (16, 0.25)):
        chosen = [case for case in _judged(found) if tiny(case, tasks)]
        yield _aim(found, chosen, f"tiny-mlp, T = {tasks}: JAX", ("JAX, step",), limit)
    chosen = [case for case in _judged(found) if case.net == "tiny-mlp"]
    yield _aim(found, chosen, "tiny-mlp: TensorFlow's step", ("TensorFlow, step",), 0.5)
    yield _aim(found, chosen, "tiny-mlp: PyTorch, a loop of one's own", ("PyTorch, loop",), 1.0)
    yield _aim(found, chosen, "tiny-mlp: PyTorch, fit", ("PyTorch, fit",), 1.5)
    for net in LARGER:
        chosen = [case for case in _judged(found) if case.net == net]
        steps = ("JAX, step", "TensorFlow, step", "PyTorch, step")
        yield _aim(found, chosen, f"{net}: the best backend", steps, 0.8, best=True)
        yield _aim(found, chosen, f"{net}: each backend", steps, 1.1)


def _judged(found: Found) -> list[Case]:
    return [case for case in cases(found) if case.method in ("upgrad", "mgda")]


def _aim(
    found: Found,
    chosen: list[Case],
    words: str,
    titles: tuple[str, ...],
    limit: float,
    best: bool = False,
) -> list[str]:
    """A row, empty if nothing of it was measured; best: of several columns the smallest counts."""
    figures = []
    for case in chosen:
        known = [value for title in titles if (value := _found(found, case, title)) is not None]
        if known:
            figures.append(min(known) if best else max(known))
    if not figures:
        return []
    return [words, f"{limit:.2f}", f"{max(figures):.2f}", "✓" if max(figures) <= limit else "✗"]


# ------------------------------------------------------------------ the same update


def _same(found: Found) -> str:
    lines = [line for line in found.lines if line.distance is not None]
    apart = [line for line in lines if not line.distance <= TOLERANCE]  # not a number: apart
    steps = _once(lines)
    words = [
        "All begin with the same weights and make one step at a learning rate of one. What it "
        "changes is compared\nwith the LibMTL-style loop, whose T x T problems are solved exactly, "
        "in float64. The same is what is within\n"
        f"{TOLERANCE:g} of it, in the norm of the whole change, on all nets and backends alike. Of "
        f"{len(steps)} first steps {len(steps) - len(_once(apart))} are the same."
    ]
    if apart:
        rows = [
            [
                f"{line.net}, {line.tasks}",
                line.method,
                line.peer,
                f"{line.distance:.1e}",
                line.differs or "not known",
            ]
            for line in _once(apart)
        ]
        words.append("These are not:")
        words.append(common.table(["net, T", "method", "", "apart", "why"], rows))
    return "\n\n".join(words)


def _once(lines: list[Line]) -> list[Line]:
    """One line for each contender, not for each of its ways."""
    return [*{(x.net, x.tasks, x.method, x.peer): x for x in lines}.values()]


# ------------------------------------------------------------------ details


def _memory_words(found: Found) -> str:
    if found.about["device"] == "gpu":
        return "(as the framework counts it on the device; JAX since the process began)"
    return (
        "(of the resident set; what an allocator keeps for later is not seen, so a small figure "
        "may be\n  too small, and of TensorFlow, which keeps all, there is none)"
    )


def _details(found: Found) -> str:
    nets = dict.fromkeys((case.net, case.tasks) for case in cases(found))
    header = [
        "method",
        "",
        "",
        "ms",
        "quartiles",
        "ratio",
        "middle half",
        "memory",
        "first",
        "update",
    ]
    parts = []
    for net, tasks in nets:
        rows = [
            row
            for case in cases(found)
            if (case.net, case.tasks) == (net, tasks)
            for row in _detail_rows(found, case)
        ]
        text = common.table(header, rows)
        parts.append(f"<details><summary>{net}, T = {tasks}</summary>\n\n{text}\n\n</details>")
    return "\n\n".join(parts)


def _detail_rows(found: Found, case: Case) -> Iterator[list[str]]:
    for line in case.lines:
        measured = times(found, line)
        if not measured:
            yield [case.method, line.peer, line.way, *[""] * 6, f"fails: {line.failed}"]
            continue
        own = spread(measured)
        compared = ratio(found, case, line)
        yield [
            case.method,
            line.peer,
            line.way,
            f"{1e3 * own.middle:.2f}",
            f"{1e3 * own.low:.2f}-{1e3 * own.high:.2f}",
            f"{compared.middle:.2f}" if compared else "",
            f"{compared.low:.2f}-{compared.high:.2f}" if compared else line.failed,
            "" if line.memory is None else f"{line.memory / 2**20:.1f}",
            "" if line.first is None else f"{line.first:.2f}",
            _update(line),
        ]


def _update(line: Line) -> str:
    if line.distance is None:
        return ""
    if line.distance <= TOLERANCE:
        return f"same ({line.distance:.0e})"
    return f"{line.distance:.0e} apart: {line.differs or 'not known why'}"
