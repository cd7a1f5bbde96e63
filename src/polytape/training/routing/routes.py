"""Routes: which objective trains which variable, by declaration and in fact."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from polytape.contract.types import Anything, Flags
from polytape.differentiation.connectivity import NoPathError
from polytape.differentiation.variables import path_of
from polytape.training.losses.objective import Objective
from polytape.training.variables import VariableIndex, shown


@dataclass(frozen=True)
class Routes:
    """Which variables each objective may train.

    allowed  (T, V) bool
    """

    allowed: Flags

    @classmethod
    def anywhere(cls, objectives: int, variables: int) -> "Routes":
        """Every objective trains all that it reaches."""
        return cls(np.ones((objectives, variables), bool))

    @classmethod
    def declared(cls, objectives: Sequence[Objective], index: VariableIndex) -> "Routes":
        """As the objectives say in `trains`."""
        allowed = np.ones((len(objectives), len(index.variables)), bool)
        for row, objective in zip(allowed, objectives, strict=True):
            if objective.trains is not None:
                row[:] = False
                for item in objective.trains:
                    row[index.select(item, f"Objective {objective.name!r}")] = True
        return cls(allowed)

    @property
    def open(self) -> bool:
        """Whether nothing is ruled out."""
        return bool(self.allowed.all())

    def row(self, objective: int) -> list[int]:
        """The variables that an objective may train."""
        return np.flatnonzero(self.allowed[objective]).tolist()

    @cached_property
    def parts(self) -> list[tuple[list[int], list[int]]]:
        """(objectives, variables): variables grouped by the objectives that may train them."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for variable, column in enumerate(self.allowed.T):
            groups.setdefault(tuple(np.flatnonzero(column).tolist()), []).append(variable)
        return [(list(objectives), found) for objectives, found in groups.items() if objectives]

    def within(self, reach: Flags) -> Flags:
        """(T, V) bool: what is both reached and allowed."""
        return reach & self.allowed

    def check(self, reach: Flags, objectives: Sequence[Objective], index: VariableIndex) -> None:
        """Raise if a named part of the model is not reached by the objective that shall train it.

        reach  (T, V) bool: differentiable paths
        """
        for row, objective in zip(reach, objectives, strict=True):
            for item in objective.trains or ():
                if not row[index.select(item, f"Objective {objective.name!r}")].any():
                    raise NoPathError(_nowhere(objective.name, item, row, index))


def _nowhere(name: str, item: Anything, row: Flags, index: VariableIndex) -> str:
    owners = dict.fromkeys(index.owners[v] for v in np.flatnonzero(row))
    reached = ", ".join(repr(owner) for owner in owners if owner) or "nothing"
    return (
        f"Objective {name!r} shall train {shown(item)}, but no differentiable path leads from its "
        f"loss to it. It reaches {reached}. Likely causes: the loss reads an output that this "
        "network does not make, or the path goes through stop_gradient, argmax, a comparison, a "
        "cast to integers or NumPy. Mend the path or the route."
    )


def check_trained(reach: Flags, index: VariableIndex) -> None:
    """Raise if no objective trains a network; warn of single variables that none trains.

    reach  (T, V) bool: what the objectives reach and may train
    """
    trained: Anything = reach.any(axis=0)
    for name in index.networks:
        own = index.of(name)
        if own and not trained[own].any():
            raise NoPathError(
                f"Network {name!r} has {len(own)} trainable variables and no objective trains "
                "them: it is not called in the forward pass, no loss reads what it makes, or the "
                "routes leave it out. Mend that, or set its `trainable = False` before compile()."
            )
    warn_untrained([v for v, known in zip(index.variables, trained, strict=True) if not known])


def warn_untrained(variables: Sequence[keras.Variable]) -> None:
    """Warn of variables that nothing trains, if there are any."""
    if variables:
        paths = [path_of(variable) for variable in variables]
        more = ", ..." if len(paths) > 4 else ""
        warnings.warn(
            f"No objective trains {len(paths)} variables: {', '.join(paths[:4])}{more}. The "
            "optimizer leaves them as they are.",
            UserWarning,
            stacklevel=2,
        )
