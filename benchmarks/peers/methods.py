"""The methods, by name: what they compute, and polytape's with the scale of the papers.

Shared variables get the combined gradient, a head's own that of its loss. Where every example is an
objective polytape combines the terms of the mean, 1/32 of each loss, so its usual scale, that of a
sum, is there the papers' on the losses themselves.
"""

from typing import Any

from benchmarks.peers.nets import Net

# Relative, of the whole update, as far as float32 goes: in a ResNet one ReLU that rounding switches
# on or off makes 1e-3.
TOLERANCE = 2e-3

METHODS = {
    "upgrad": "each gradient projected onto the cone that hurts no objective, and their mean",
    "mgda": "the shortest vector in the convex hull of the gradients",
    "config": "the direction of equal cosines to all gradients, as long as they are along it",
    "sum": "the sum of the losses: what frameworks and Keras's layers themselves take "
    "(`pt.gradients` makes a pass for each objective all the same)",
    "dualproj": "the mean gradient projected onto that cone",
    "imtlg": "equal projections onto all unit gradients",
    "pcgrad": "each gradient projected off those that it meets and opposes, and their sum",
    "nashmtl": "the Nash bargaining solution",
}
DEFAULT = ("upgrad", "mgda", "config", "sum")


def share(method: str, net: Net) -> float:
    """What peers multiply a loss by. Only ConFIG has no scale but that of its gradients."""
    return 1 / net.batch if net.per_example and method == "config" else 1.0


def polytape(method: str, net: Net) -> Any:
    """With the scale of the paper, in which peers have it."""
    import polytape as pt

    if method in ("sum", "config", "pcgrad", "nashmtl"):  # they have that of the paper
        made: dict[str, Any] = {
            "sum": pt.Sum,
            "config": pt.ConFIG,
            "pcgrad": pt.PCGrad,
            "nashmtl": pt.NashMTL,
        }
        return made[method]()
    scaled = {"upgrad": pt.UPGrad, "mgda": pt.MGDA, "dualproj": pt.DualProj, "imtlg": pt.IMTLG}
    return scaled[method](scale="sum" if net.per_example else "mean")
