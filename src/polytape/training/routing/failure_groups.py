"""Which objectives stand or fall together when a gradient is not finite."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polytape.contract.types import Flags


class FailureGroup(NamedTuple):
    """Objectives that one backward pass does not tell apart, and the variables they may train."""

    objectives: tuple[int, ...]
    variables: tuple[int, ...]


def one_group(objectives: int, variables: int) -> tuple[FailureGroup, ...]:
    """One group of all."""
    return (FailureGroup(tuple(range(objectives)), tuple(range(variables))),)


def failure_groups(allowed: Flags, owners: Sequence[str]) -> tuple[FailureGroup, ...]:
    """Objectives that share a variable, or an optimizer, directly or by way of others.

    allowed  (T, V) bool: which objective may train which variable
    owners   names of the optimizers of the V variables
    """
    named = np.array([[owner == name for name in dict.fromkeys(owners)] for owner in owners], int)
    uses = (allowed.astype(int) @ named) > 0  # (T, optimizers)
    left, found = set(range(len(allowed))), []
    while left:
        members = np.zeros(len(allowed), bool)
        grown = members.copy()
        grown[min(left)] = True
        while (grown != members).any():
            members = grown
            grown = uses[:, uses[members].any(axis=0)].any(axis=1) | members
        left -= {*np.flatnonzero(members).tolist()}
        variables = np.flatnonzero(allowed[members].any(axis=0))
        found.append(
            FailureGroup(tuple(np.flatnonzero(members).tolist()), tuple(variables.tolist()))
        )
    return tuple(found)
