"""Names for the arrays of a state, by method and field: gradnorm/logs/value."""

import re
from collections.abc import Mapping, Sequence

from polytape.aggregation.state import Path, leaves
from polytape.contract import Method, State
from polytape.stages.chain import Chain


def names_of(
    state: State, lead: Method | None, rest: Method | None, variables: Sequence[str]
) -> dict[Path, Path]:
    """{place of an array: its name} for the state of an `Aggregator`, no two with the same name.

    lead, rest  scalarization and combination;  variables  their paths, for arrays of a memory
    """
    found: dict[Path, Path] = {}
    taken: list[str] = []
    for root, method in (("scalarization", lead), ("combination", rest)):
        if method is not None:
            found.update(_of(method, leaves(state[root], (root,)), (root,), taken))
    for place in leaves(state):
        if place[0] == "memory":
            _, index, array = place
            found[place] = ("memory", array, *variables[int(index)].split("/"))
        elif place not in found:
            found[place] = place
    return _distinct({place: tuple(map(_allowed, name)) for place, name in found.items()})


def _of(
    method: Method, places: Mapping[Path, object], root: Path, taken: list[str]
) -> dict[Path, Path]:
    """Names of the arrays below `root`, which are the state of `method`.

    taken  names of the methods beside it, to which those given here are added
    """
    transparent = isinstance(method, Chain)
    own = () if transparent else (_numbered(type(method).__name__.lower(), taken),)
    inner, beside = method.states(), taken if transparent else []
    found: dict[Path, Path] = {}
    if "" in inner:
        names = _of(inner[""], places, root, beside)
        return {place: (*own, *name) for place, name in names.items()}
    for key, held in inner.items():
        below = {place: None for place in places if place[: len(root) + 1] == (*root, key)}
        branch = () if key in vars(method) or transparent else (key,)
        names = _of(held, below, (*root, key), beside if not branch else [])
        found.update({place: (*own, *branch, *name) for place, name in names.items()})
    rest = {place: (*own, *(place[len(root) :] or ("state",))) for place in places}
    return {**rest, **found}


def _numbered(name: str, taken: list[str]) -> str:
    """The name, with a number if it is not the first of that name."""
    taken.append(name)
    count = taken.count(name)
    return name if count == 1 else f"{name}_{count}"


def _allowed(part: str) -> str:
    """Without what Keras or TensorFlow refuse in a name."""
    return "others" if part == "*" else re.sub(r"[^A-Za-z0-9_.-]", "_", part)


def _distinct(names: Mapping[Path, Path]) -> dict[Path, Path]:
    found: dict[Path, Path] = {}
    for place, name in names.items():
        number, new = 1, name
        while new in found.values():
            number += 1
            new = (*name[:-1], f"{name[-1]}_{number}")
        found[place] = new
    return found
