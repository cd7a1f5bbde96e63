"""Stages in a row: each one scales the rows for the next."""

import itertools
from dataclasses import dataclass
from typing import Any

import keras

from polytape.contract import (
    NEEDS,
    Evidence,
    Method,
    Need,
    Seed,
    State,
    Tensor,
    evaluate,
    ops,
)


@dataclass(frozen=True, init=False)
class Chain(Method):
    """Row transforms, then a weighting: `Chain(Normalize(), Clip(1.0), PCGrad())`.

    Every stage is a method; its weights multiply the rows (and losses) that the next stage sees,
    so the Gramian becomes C G C^T with C = diag(weights), and the weights of the chain are the
    product. No tensor of the network is touched in between.

    Leading stages that need losses only weigh the loss itself: they reach private variables too,
    and a chain of nothing else costs one backward pass. A row-wise method must come last.

    Args:
        *stages: methods in their order; chains among them are taken apart

    Example:
        >>> import polytape as pt
        >>> chain = pt.Chain(pt.Normalize(), pt.Mean())
        >>> weights, _ = pt.weigh(chain, [[4.0, 0.0], [0.0, 0.25]])
        >>> [float(w) for w in weights]
        [0.25, 1.0]
    """

    stages: tuple[Method, ...]

    def __init__(self, *stages: Method) -> None:
        for stage in stages:
            if not isinstance(stage, Method):
                raise TypeError(
                    "A Chain is made of methods, as in pt.Chain(pt.Normalize(), pt.PCGrad()). "
                    f"Received: {stage!r} of type {type(stage).__name__}."
                )
        flat = itertools.chain(*(s.stages if isinstance(s, Chain) else (s,) for s in stages))
        object.__setattr__(self, "stages", tuple(flat))
        self.__post_init__()

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("An empty Chain: give it at least one stage. Received: Chain().")
        for stage in self.stages[:-1]:
            if stage.needs == "rows":
                raise ValueError(
                    f"{type(stage).__name__} works coordinate by coordinate and leaves no rows for "
                    "the stage behind it. Put it last in the Chain."
                )
        _refuse_before_memory(self.stages)
        scopes = {stage.scope for stage in self.stages} - {None}
        if len(scopes) > 1:
            raise ValueError(
                f"One Chain, two scopes: {', '.join(sorted(map(str, scopes)))}. "
                "Keep one of PerVariable and PerNetwork."
            )

    @property
    def needs(self) -> Need:  # type: ignore[override]
        return max((stage.needs for stage in self.stages), key=NEEDS.index)

    @property
    def constant(self) -> bool:  # type: ignore[override]
        return all(stage.constant for stage in self.stages)

    @property
    def scope(self) -> str | None:
        return next((stage.scope for stage in self.stages if stage.scope), None)

    @property
    def period(self) -> int:
        return self.stages[0].period if len(self.stages) == 1 else 1

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        whole = self.scope is None
        return tuple(
            stage.init(names, blocks if whole or stage.scope else ()) for stage in self.stages
        )

    def states(self) -> dict[str, Method]:
        return {str(place): stage for place, stage in enumerate(self.stages)}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        weights, first = evaluate(self.stages[0], evidence, state[0])
        total, states = weights, [first]
        rest = zip(self.stages[1:], state[1:], strict=True)
        for index, (stage, inner) in enumerate(rest, start=1):
            scaled = evidence.scaled(weights)
            total = lost(total, evidence, scaled)
            evidence = scaled
            weights, inner = evaluate(stage, evidence.reseeded(index), inner)
            total = total * weights
            states.append(inner)
        return total, tuple(states)

    @property
    def sums_rows(self) -> bool:
        return self.stages[-1].sums_rows

    def combine(self, rows: Tensor, seed: Seed) -> Tensor:
        return self.stages[-1].combine(rows, seed)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Chain":
        stages = (keras.saving.deserialize_keras_object(stage) for stage in config["stages"])
        return cls(*stages)


def lost(weights: Tensor, before: Evidence, after: Evidence) -> Tensor:
    """The weights (..., T), NaN for objectives that became inactive in between."""
    gone = ops.logical_and(before.active, ops.logical_not(after.active))
    return ops.where(gone, float("nan"), weights)


def _refuse_before_memory(stages: tuple[Method, ...]) -> None:
    """Raise if a stage weighs gradients which the last one would rather see itself."""
    last = stages[-1]
    for stage in stages[:-1] if last.memory is not None else ():
        if stage.needs != "losses":
            raise ValueError(
                f"{type(last).__name__} sees the rows before anything is weighed, so "
                f"{type(stage).__name__} cannot stand before it. Only stages that weigh losses "
                "can, such as pt.Reweight."
            )


def split(method: Method) -> tuple[Method | None, Method | None]:
    """A method as (scalarization, combination): what weighs losses, what weighs gradients.

    The scalarization is the leading part that needs losses only. It multiplies the
    loss, hence every gradient of it; the combination, if any, acts on the shared variables alone.
    """
    stages = method.stages if isinstance(method, Chain) else (method,)
    lead = tuple(itertools.takewhile(lambda stage: stage.needs == "losses", stages))
    rest = stages[len(lead) :]
    return tuple(  # type: ignore[return-value]
        (part[0] if len(part) == 1 else Chain(*part)) if part else None for part in (lead, rest)
    )
