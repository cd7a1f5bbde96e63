"""Phases: objectives trained together, one group after the other."""

from collections.abc import Sequence

import keras

from polytape.contract import check_objective_names, did_you_mean, is_whole, received
from polytape.contract.types import Anything, Config


@keras.saving.register_keras_serializable(package="polytape")
class Phase:
    """Objectives that are trained together, with a forward pass and an update of their own.

    Phases follow each other within one compiled training step: the next one sees what the one
    before has updated. Only the variables that its objectives train are updated.

    Args:
        objectives: a name or a list of names
        steps: how often in one training step, on the same batch; every time with a new forward
            pass, so with fresh noise

    Example:
        >>> import polytape as pt
        >>> [pt.Phase("critic", steps=5), pt.Phase(["generator"])]
        [Phase('critic', steps=5), Phase('generator', steps=1)]
    """

    def __init__(self, objectives: str | Sequence[str], steps: int = 1) -> None:
        names: tuple[str, ...] = (objectives,) if isinstance(objectives, str) else ()
        if isinstance(objectives, (list, tuple)):
            names = tuple(objectives)
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(
                "A Phase takes the name of an objective, or several. " + received(objectives)
            )
        check_objective_names(names)
        if not is_whole(steps) or steps < 1:
            raise ValueError(
                f"A Phase is run a whole number of times, at least once. Received: steps={steps!r}."
            )
        self.objectives, self.steps = names, int(steps)

    def __repr__(self) -> str:
        return f"Phase({', '.join(map(repr, self.objectives))}, steps={self.steps})"

    def get_config(self) -> Config:
        return {"objectives": list(self.objectives), "steps": self.steps}

    @classmethod
    def from_config(cls, config: Config) -> "Phase":
        return cls(**config)


def ordered(phases: Sequence[Anything] | None, names: Sequence[str]) -> list[Phase]:
    """The phases of a training step: one of all objectives if none are given.

    Raises ValueError unless every objective is in exactly one of them.
    """
    if phases is None:
        return [Phase(tuple(names))]
    if not isinstance(phases, (list, tuple)) or not phases:
        raise TypeError(
            'compile(phases=...) takes a list, [pt.Phase("critic", steps=5), "generator"]. '
            f"{received(phases)}"
        )
    found = [phase if isinstance(phase, Phase) else Phase(phase) for phase in phases]
    placed = [name for phase in found for name in phase.objectives]
    unknown = [name for name in placed if name not in names]
    if unknown:
        raise ValueError(
            f"compile(phases=...) names {unknown[0]!r}, which is not an objective."
            f"{did_you_mean(unknown[0], names)} "
            f"Objectives: {', '.join(map(repr, names))}."
        )
    for name in names:
        if placed.count(name) != 1:
            raise ValueError(
                f"Objective {name!r} is in {placed.count(name)} phases. Put every objective in "
                "exactly one: for a second update by the same loss add an objective with a name of "
                "its own."
            )
    return found
