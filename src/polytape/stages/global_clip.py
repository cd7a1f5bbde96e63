"""A bound on the combined gradient."""

from dataclasses import dataclass
from typing import Annotated, Any

from polytape.contract import Evidence, Method, Range, State, Tensor, evaluate, ops
from polytape.linalg.length import length_of
from polytape.linalg.reciprocal import or_one
from polytape.stages.clip import shorten


@dataclass(frozen=True)
class GlobalClip(Method):
    """Another method's combined gradient, shortened to `norm` where it is longer.

    ||J^T w||^2 = w^T G w, so the norm costs T^2 operations and no pass over the network. It is the
    norm over the *shared* variables; `global_clipnorm` of the optimizer bounds everything,
    private variables included. Under a scope, `GlobalClip(PerVariable(m), c)` bounds the whole
    update and `PerVariable(GlobalClip(m, c))` each variable's part.

    Not homogeneous: `norm` is in units of loss / parameter; `inf` clips nothing.

    Args:
        inner: the method that is wrapped
        norm: the length, in units of loss / parameter; `inf` clips nothing

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.GlobalClip(pt.Sum(), 1.0), [[2.0, 0.0], [0.0, 2.0]])
        >>> [round(float(w), 4) for w in weights]
        [0.5, 0.5]
    """

    inner: Method
    norm: Annotated[float, Range(0, open="low")] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_rows(self, self.inner)

    @property
    def scope(self) -> str | None:
        return self.inner.scope

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return self.inner.init(names, blocks)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        weights, state = evaluate(self.inner, evidence, state)
        norm = length_of(evidence.gramian, weights)
        if evidence.reach is not None:
            longest = or_one(ops.max(norm))
            norm = longest * ops.sqrt(ops.sum(ops.square(norm / longest)))
        return weights * shorten(norm, self.norm), state


def refuse_rows(outer: Method, inner: Any) -> None:
    """Raise unless `inner` is a method whose result is a weighted sum of rows."""
    name = type(outer).__name__
    if not isinstance(inner, Method):
        raise TypeError(
            f"{name} acts around a method, as in pt.{name}(pt.UPGrad()). "
            f"Received: {inner!r} of type {type(inner).__name__}."
        )
    if inner.memory is not None:
        raise ValueError(
            f"{name}({type(inner).__name__}()): {type(inner).__name__} sees the rows themselves in "
            f"every step, and {name} has only a Gramian to show. Use it on its own or last in a "
            "pt.Chain, or clip with the optimizer's `global_clipnorm`."
        )
    if inner.needs == "rows":
        raise ValueError(
            f"{name}({type(inner).__name__}()): {type(inner).__name__} works coordinate by "
            f"coordinate, so its result has no weights for {name} to act on. Put it last in a "
            "pt.Chain instead, or clip with the optimizer's `global_clipnorm`."
        )
