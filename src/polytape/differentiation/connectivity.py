"""Which objective reaches which variable: found from the recorded step, never asked of the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np


class NoPathError(ValueError):
    """No differentiable path leads from a loss to what it shall train."""


@dataclass(frozen=True)
class Connectivity:
    """The (objective, variable) pairs joined by a differentiable path.

    names  T objectives;  paths  V variables;  reach  (T, V) bool
    joint  whether variables reached by a single objective count as shared, too; always so if
           there is but one objective
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    reach: np.ndarray
    joint: bool = False

    @classmethod
    def seen(
        cls,
        names: Sequence[str],
        paths: Sequence[str],
        rows: Sequence[Sequence[Any]],
        joint: bool = False,
    ) -> "Connectivity":
        """As seen in gradients rows[t][v]: None where no path exists."""
        reach = bytes(gradient is not None for row in rows for gradient in row)
        return _seen(tuple(names), tuple(paths), reach, joint)

    def within(self, objectives: Sequence[int], variables: Sequence[int]) -> "Connectivity":
        """That of some objectives and some variables, by index."""
        names = tuple(self.names[t] for t in objectives)
        paths = tuple(self.paths[v] for v in variables)
        return Connectivity(names, paths, self.reach[np.ix_(objectives, variables)], self.joint)

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """Variables that two or more objectives reach."""
        least = 1 if self.joint or len(self.names) == 1 else 2
        return tuple(int(v) for v in np.flatnonzero(self.reach.sum(axis=0) >= least))

    @cached_property
    def private(self) -> dict[int, int]:
        """{variable: the one objective that reaches it}."""
        joint = self.joint or len(self.names) == 1
        alone: Any = [] if joint else np.flatnonzero(self.reach.sum(axis=0) == 1)
        return {int(v): self._reaching[v][0] for v in alone}

    def objectives(self, variable: int) -> tuple[int, ...]:
        """The objectives that reach a variable."""
        return self._reaching[variable]

    @cached_property
    def _reaching(self) -> list[tuple[int, ...]]:
        flags = self.reach.T.tolist()
        return [tuple(t for t, reaches in enumerate(column) if reaches) for column in flags]

    def check(self, frozen: Sequence[str] = ()) -> None:
        """Raise if an objective reaches no variable at all.

        frozen  paths of variables that no gradient is taken by
        """
        if self.reach.any(axis=1).all():
            return
        resting = f"{len(frozen)} of these are frozen: {', '.join(frozen[:4])}. " if frozen else ""
        for name, row in zip(self.names, self.reach, strict=True):
            if not row.any():
                raise NoPathError(
                    f"Objective {name!r} reaches no trainable variable: no differentiable path "
                    f"leads from its loss to any of the {len(self.paths)} variables. {resting}"
                    "Likely causes: its output was computed outside the step or by a frozen "
                    "network, or the path goes through stop_gradient, argmax, a comparison, a cast "
                    "to integers or NumPy. Remove the objective or mend the path."
                )


@lru_cache(maxsize=64)  # eager steps see the same again and again
def _seen(
    names: tuple[str, ...], paths: tuple[str, ...], reach: bytes, joint: bool
) -> Connectivity:
    """reach  of each objective in turn a byte for each variable"""
    flags = np.frombuffer(reach, bool).reshape(len(names), len(paths))
    return Connectivity(names, paths, flags, joint)


@dataclass(frozen=True)
class Blocks:
    """How a scope cuts the variables into blocks with a Gramian each.

    of     for each variable the number of its block; all zero without a scope
    names  of the blocks; empty without a scope
    """

    of: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def by(
        cls, scope: str | None, paths: Sequence[str], networks: Sequence[str] | None = None
    ) -> "Blocks":
        """networks  the network of each variable; None takes the first part of its path"""
        if scope is None:
            return cls((0,) * len(paths), ())
        if scope == "variable":
            return cls(tuple(range(len(paths))), tuple(paths))
        owners = networks or [path.split("/")[0] for path in paths]
        if "unnamed" in owners:
            raise ValueError(
                "One Gramian per network needs to know the network of each variable, the first "
                f"part of its name, and {owners.count('unnamed')} have no name. Give a module or "
                'names: pt.gradients(losses, {"encoder": encoder, "decoder": decoder}), or '
                "module.named_parameters()."
            )
        order = list(dict.fromkeys(owners))
        return cls(tuple(order.index(owner) for owner in owners), tuple(order))

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes of Gramian and weights: () without a scope, else (number of blocks,)."""
        return (len(self.names),) if self.names else ()

    def reach(self, connectivity: Connectivity) -> np.ndarray | None:
        """(B, T) bool: which objective reaches a shared variable of which block."""
        if not self.shape:
            return None
        found = np.zeros((*self.shape, len(connectivity.names)), bool)
        for variable in connectivity.shared:
            found[self.of[variable]] |= connectivity.reach[:, variable]
        return found
