"""How the pictures look: one colour and dash a method, quiet axes, no overlapping words."""

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's palette, made to be told apart by colour-blind readers, without its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))
BASELINE = "#3B3B3B"
QUIET = "#8A8A8A"
# Of gradients, in heat maps: against each other, neither, together.
OPPOSED, NEUTRAL, TOGETHER = "#D55E00", "#F1F1F1", "#0072B2"

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "legend.frameon": False,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
}


def strokes(methods: Sequence[str], base: str) -> dict[str, dict[str, Any]]:
    """Line style of each method: the baseline is dark grey, the others have colours.

    >>> strokes(["Sum", "MGDA"], base="Sum")["MGDA"]["color"]
    '#0072B2'
    """
    found = {}
    others = [name for name in methods if name != base]
    for name in methods:
        if name == base:
            found[name] = {"color": BASELINE, "linestyle": "-"}
            continue
        turn, place = divmod(others.index(name), len(COLOURS))
        found[name] = {"color": COLOURS[place], "linestyle": DASHES[turn % len(DASHES)]}
    return found


def spread_out(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved apart as little as needed to be `gap` from each other.

    Kept between `low` and `high` if they fit there.

    >>> spread_out([0.5, 0.5], gap=0.2, low=0.0, high=1.0)
    [0.4, 0.6]
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    clusters: list[list[float]] = []  # [centre, members]
    for index in order:
        clusters.append([min(max(positions[index], low), high), 1])
        while len(clusters) > 1 and _overlap(clusters[-2], clusters[-1], gap):
            (c1, n1), (c2, n2) = clusters[-2:]
            clusters[-2:] = [[(c1 * n1 + c2 * n2) / (n1 + n2), n1 + n2]]
            half = gap * (n1 + n2 - 1) / 2
            clusters[-1][0] = min(max(clusters[-1][0], low + half), max(high - half, low + half))
    places = [
        centre + gap * (member - (members - 1) / 2)
        for centre, members in clusters
        for member in range(int(members))
    ]
    found = [0.0] * len(positions)
    for index, place in zip(order, places, strict=True):
        found[index] = place
    return found


def _overlap(first: list[float], second: list[float], gap: float) -> bool:
    return second[0] - first[0] < gap * (first[1] + second[1]) / 2 - 1e-9
