"""Which gradients ask for an explanation, and what is said of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polytape.engines.operations import Trace
from polytape.engines.places import Line
from polytape.explanation.causes import Cause, Causes
from polytape.explanation.finding import Finding, Kind
from polytape.explanation.words import CUTS


@dataclass(frozen=True)
class Asked:
    """What is known of the gradients of T objectives by V variables.

    scalars   the place of each objective's loss in the trace
    networks  of each variable
    reach, routes  (T, V) bool;  declared  (T, V) bool: routes that the user wrote down
    zero, finite   (T, V) bool: of the gradients that exist
    losses    (T,) values;  present  (T,) bool: objectives with a label in this batch
    """

    objectives: Sequence[str]
    scalars: Sequence[int]
    networks: Sequence[str]
    paths: Sequence[str]
    reach: np.ndarray
    routes: np.ndarray
    declared: np.ndarray
    zero: np.ndarray
    finite: np.ndarray
    losses: np.ndarray
    present: np.ndarray


def search(asked: Asked, trace: Trace | None) -> list[Finding]:
    """What is wrong, the gravest first: not finite, missing, zero.

    trace  of the forward pass; None: there is none, so no cause can be told
    """
    causes = None if trace is None else Causes(trace, asked.paths)
    found = [
        *_absent(asked),
        *_not_finite(asked, causes),
        *_missing(asked, causes),
        *_untrained(asked, causes),
        *_zero(asked, causes),
    ]
    return list(dict.fromkeys(found))


def left_framework(line: Line | None) -> Finding:
    """Of a forward pass that needs numbers while it is traced, so that nothing else is known."""
    words = CUTS["a host function"]
    where = "" if line is None else str(line)
    text = f"A host function {words.why}"
    return Finding("", "", "cut", text, words.remedy, "a host function", line=where)


def _absent(asked: Asked) -> Iterator[Finding]:
    for name, there in zip(asked.objectives, asked.present, strict=True):
        if not there:
            yield Finding(
                name,
                "",
                "no label",
                "No sample of this batch has a label for it or a sample weight other than zero, or "
                "its `when` or `every` leaves it out of this step",
                "Look at the targets (NaN means no label), or try a batch that has some.",
            )


def _networks(asked: Asked) -> Iterator[tuple[int, str, np.ndarray]]:
    """Each objective of this step, with each network and its variables."""
    owners = np.array(asked.networks)
    for t in np.flatnonzero(asked.present):
        for network in dict.fromkeys(asked.networks):
            yield int(t), network, np.flatnonzero(owners == network)


def _not_finite(asked: Asked, causes: Causes | None) -> Iterator[Finding]:
    for t, network, own in _networks(asked):
        bad = own[asked.reach[t, own] & asked.routes[t, own] & ~asked.finite[t, own]]
        if bad.size:
            found = causes.not_finite(asked.scalars[t]) if causes else []
            loss = asked.losses[t]
            which = "" if np.isfinite(loss) else f"the loss is {loss}: "
            yield from _findings(asked, t, network, bad, found, "not finite", which)
    trained = asked.reach & asked.routes
    for t in np.flatnonzero(asked.present & ~np.isfinite(asked.losses)).tolist():
        if asked.finite[t][trained[t]].all():
            found = causes.not_finite(asked.scalars[t]) if causes else []
            which = f"the loss is {asked.losses[t]}: "
            yield from _findings(asked, t, "", np.array([], int), found, "not finite", which)


def _missing(asked: Asked, causes: Causes | None) -> Iterator[Finding]:
    """Networks without a gradient although they are on the route."""
    trained = asked.reach & asked.routes
    orphans: dict[str, list[tuple[int, np.ndarray, list[Cause]]]] = {}
    for t, network, own in _networks(asked):
        may = own[asked.routes[t, own]]
        if not may.size or trained[t, may].any():
            continue
        found = causes.missing(asked.scalars[t], may.tolist()) if causes else []
        if asked.declared[t, may].any() or not trained[t].any():
            yield from _findings(asked, t, network, may, found, "not connected", "")
        elif not trained[:, own].any():
            orphans.setdefault(network, []).append((t, may, found))
        elif not any(_meant(cause) for cause in found):
            # Somebody else trains the network: only what looks like a mistake, and nobody who cuts
            # a path means another.
            mistakes = [cause for cause in found if _mistaken(cause)]
            if mistakes:
                yield from _findings(asked, t, network, may, mistakes, "not connected", "")
    for network, each in orphans.items():
        cut = [one for one in each if any(cause.kind == "cut" for cause in one[2])]
        for t, may, found in cut:
            yield from _findings(asked, t, network, may, found, "not connected", "")
        if not cut:  # no loss asks for it
            _, may, found = each[0]
            yield from _findings(asked, None, network, may, found, "not connected", "")


def _mistaken(cause: Cause) -> bool:
    return cause.kind == "cut" and cause.operation != ""


def _meant(cause: Cause) -> bool:
    """Whether a missing path is a decision of the user's."""
    return cause.operation in ("stop_gradient", "no_grad")


def _untrained(asked: Asked, causes: Causes | None) -> Iterator[Finding]:
    """Variables that nobody trains, in networks that somebody does."""
    trained = asked.reach & asked.routes
    owners = np.array(asked.networks)
    here = np.flatnonzero(asked.present).tolist()
    if not here or not asked.present.all():
        return
    for network in dict.fromkeys(asked.networks):
        own = np.flatnonzero(owners == network)
        idle = own[~trained[:, own].any(axis=0) & asked.routes[:, own].any(axis=0)]
        if not idle.size or idle.size == own.size:
            continue
        t = next((t for t in here if trained[t, own].any()), here[0])
        found = causes.missing(asked.scalars[t], idle.tolist()) if causes else []
        yield from _findings(asked, None, network, idle, found, "not connected", "")


def _zero(asked: Asked, causes: Causes | None) -> Iterator[Finding]:
    sound = asked.finite.all(axis=1) & np.isfinite(asked.losses)
    for t, network, own in _networks(asked):
        flat = own[asked.reach[t, own] & asked.routes[t, own] & asked.zero[t, own]]
        if flat.size and sound[t]:
            found = causes.zero(asked.scalars[t], flat.tolist()) if causes else []
            moving = asked.reach[t, own] & ~asked.zero[t, own]
            if moving.any():  # a bias may well cancel, as a critic's does
                moved = set(own[moving].tolist())  # zeros that move are gone after a step
                kept = [c for c in found if c.kind != "cancelled" and c.by not in moved]
                if found and not kept:
                    continue
                found = kept
            yield from _findings(asked, t, network, flat, found, "unknown", "")


def _findings(
    asked: Asked,
    objective: int | None,
    network: str,
    variables: np.ndarray,
    causes: Sequence[Cause],
    otherwise: Kind,
    before: str,
) -> Iterator[Finding]:
    """otherwise  the kind, if no cause is known"""
    paths = tuple(asked.paths[v] for v in variables)
    name = "" if objective is None else asked.objectives[objective]
    for cause in causes or [Cause(otherwise, _PLAIN[otherwise], _ASK)]:
        line = cause.place.line
        head = f"{before}{cause.text}"
        yield Finding(
            objective=name,
            network=network,
            kind=cause.kind,
            text=f"{head[0].upper()}{head[1:]}",
            remedy=cause.remedy or _LOOK,
            operation=cause.operation,
            layer=cause.place.layer,
            line="" if line is None else str(line),
            variables=paths,
            share=cause.share,
        )


_PLAIN: dict[Kind, str] = {
    "not finite": "the gradient is not finite",
    "not connected": "no differentiable path leads here",
    "unknown": "the gradient is exactly zero",
}
_LOOK = "Look at what comes in there."
_ASK = "pt.explain with the function of the losses, or with the model and a batch, says why."
