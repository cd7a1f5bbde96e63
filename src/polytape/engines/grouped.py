"""Scalars that are recorded in named groups."""

from collections.abc import Mapping

from polytape.engines.contract import GroupName, Scalars, Tensor


def flattened(scalars: Scalars) -> tuple[list[Tensor], dict[GroupName, range]]:
    """All scalars in one list, and the places of each group, by name; of a list there are none."""
    if not isinstance(scalars, Mapping):
        return list(scalars), {}
    flat: list[Tensor] = []
    groups: dict[GroupName, range] = {}
    for name, members in scalars.items():
        groups[name] = range(len(flat), len(flat) + len(members))
        flat += members
    return flat, groups
